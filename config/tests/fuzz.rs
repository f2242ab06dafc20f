//! Whatever stands in the files: no panic, and what comes out holds together. Deterministic; a failure prints its seed.

use std::fs;
use std::path::Path;

use config::keys::KEYS;
use config::properties::{self, Entry};
use config::{ConfigFile, DirState, Env, Invocation, MyId, RawConfig, Settings, explain, explain_refusal};

/// Marsaglia's xorshift64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e != "report"))
        .map(|p| fs::read(p).unwrap())
        .collect()
}

const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "-1",
    "3",
    "true",
    "false",
    "yes",
    "no",
    "9223372036854775807",
    "-9223372036854775808",
    "0x",
    "1:2:3",
    "h:1:2",
    "h:1:2;3",
    "[::1]:1:2:observer;[::]:3",
    "h:1:2|g:3:4",
    "*",
    "srvr,,*",
    "/",
    "\\u00e4",
    "\\uD800",
    "a b",
    ";",
    "|",
    ":",
    "[",
    "]",
    "super:x",
    "2147483648",
    "org.apache.zookeeper.metrics.impl.NullMetricsProvider",
];

/// Lines of real files and of the table, with pieces lost, doubled, flipped.
fn mangle(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = rng.pick(corpus).clone();
    for _ in 0..rng.below(4) {
        let key = rng.pick(KEYS).name.replace('*', ["1", ".1", "x", ""][rng.below(4)]);
        bytes.extend(format!("\n{key}={}\n", rng.pick(VALUES)).bytes());
    }
    for _ in 0..rng.below(4) {
        let at = rng.below(bytes.len());
        match rng.below(4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, *rng.pick(b"\\\n\r=: #!\t\x00\xffu;|[]")),
            _ => {
                let other = rng.pick(corpus);
                bytes.splice(at..at, other[rng.below(other.len())..].iter().take(40).copied());
            }
        }
    }
    bytes
}

#[test]
fn nothing_panics_and_reports_stay_printable() {
    let corpus = corpus();
    let seeds = std::env::var("FUZZ_SEED").ok().map_or(1..1500, |s| {
        let seed = s.parse::<u64>().unwrap();
        seed..seed + 1
    });
    let (mut starts, mut refuses) = (0, 0);
    for seed in seeds {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let context = format!("FUZZ_SEED={seed} cargo test -p config --test fuzz");
        let text = mangle(&mut rng, &corpus);
        let flagged = rng.below(2) == 0;
        let flags = String::from_utf8_lossy(&mangle(&mut rng, &corpus)).replace('\n', " -D").to_string();
        let Ok(main) = ConfigFile::parse(Path::new("zoo.cfg"), &text) else { continue };
        let dynamic = match rng.below(3) {
            0 => ConfigFile::parse(Path::new("d.1"), &mangle(&mut rng, &corpus)).ok(),
            _ => None,
        };
        let my_id = match rng.below(3) {
            0 => MyId::Missing,
            1 => MyId::first_line(&mangle(&mut rng, &corpus)),
            _ => MyId::FirstLine(rng.below(7).to_string()),
        };
        let raw = RawConfig {
            invocation: Invocation::File("zoo.cfg".into()),
            main: Some(main),
            dynamic,
            my_id,
            data_dir: DirState::Directory,
            data_log_dir: DirState::Directory,
        };
        let entries = raw.main.iter().chain(&raw.dynamic).flat_map(|f| &f.entries).count();
        let env = Env::from_variables(|n| (flagged && n == "JVMFLAGS").then(|| flags.clone()));
        let report = match Settings::resolve(raw, &env) {
            Ok((settings, findings)) => {
                starts += 1;
                assert!(findings.len() >= entries, "{context}: a key without a finding");
                let s = settings.sessions;
                assert!(s.tick_ms >= 1 && s.timeout_min_ms <= s.timeout_max_ms, "{context}");
                assert!(settings.four_letter_words.allows("srvr"), "{context}");
                explain(&settings, &findings)
            }
            Err(refusal) => {
                refuses += 1;
                assert!(!refusal.faults.is_empty(), "{context}");
                for fault in &refusal.faults {
                    assert!(!fault.to_string().contains('\n'), "{context}: {fault:?}");
                }
                explain_refusal(&refusal)
            }
        };
        assert!(!report.chars().any(|c| c.is_control() && c != '\n'), "{context}: {report:?}");
    }
    if std::env::var_os("FUZZ_SEED").is_none() {
        assert!(starts > 100 && refuses > 100, "the mangling reaches both ends: {starts} and {refuses}");
    }
}

/// What Java's `Properties.store` escapes, and more.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0c' => out.push_str("\\f"),
            ' ' | '=' | ':' | '#' | '!' | '\\' => out.extend(['\\', c]),
            c if c.is_ascii_graphic() => out.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|u| out.push_str(&format!("\\u{u:04X}"))),
        }
    }
    out
}

#[test]
fn what_is_escaped_reads_back() {
    const CHARS: &[char] =
        &['a', 'Z', '=', ':', ' ', '\\', '#', '!', '\n', '\r', '\t', '\x0c', 'u', 'ä', '😀', '0'];
    let mut rng = Rng(7);
    for round in 0..2000 {
        let mut word = || {
            let len = rng.below(9);
            let text: String = (0..len).map(|_| *rng.pick(CHARS)).collect();
            text.trim_matches(|c| c <= ' ').to_owned()
        };
        let wanted: Vec<_> = (1..=3).map(|line| Entry { key: word(), value: word(), line }).collect();
        let text: String =
            wanted.iter().map(|e| format!("{}={}\n", escape(&e.key), escape(&e.value))).collect();
        assert_eq!(properties::parse(text.as_bytes()).as_ref(), Ok(&wanted), "round {round}: {text:?}");
    }
}
