//! Text from outside: paths, four-letter words, configurations.

use config::{ConfigFile, DirState, Env, Invocation, MyId, RawConfig, Settings};
use proto::path;
use server::fourletter::Word;
use std::path::{Path, PathBuf};

/// Paths are judged as Apache's `PathUtils.validatePath` judges them, and a good one is its parent and its name.
pub fn path(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let verdict = path::validate(&text);
    assert_eq!(verdict.is_ok(), apache_accepts(&text), "{text:?}: {verdict:?}");
    let (parent, name) = (path::parent(&text), path::name(&text));
    if verdict.is_err() || text == "/" {
        return;
    }
    let parent = parent.expect("only the root has none");
    assert_eq!(path::validate(parent), Ok(()));
    assert!(!name.is_empty() && !name.contains('/'));
    let joined = if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") };
    assert_eq!(joined, text);
}

/// The rules, character by character over UTF-16, as they stand there.
fn apache_accepts(path: &str) -> bool {
    let c: Vec<u16> = path.encode_utf16().collect();
    let (slash, dot) = (u16::from(b'/'), u16::from(b'.'));
    if c.first() != Some(&slash) {
        return false;
    }
    if c.len() == 1 {
        return true;
    }
    if c.last() == Some(&slash) {
        return false;
    }
    (1..c.len()).all(|i| {
        let ends = i + 1 == c.len() || c[i + 1] == slash;
        match c[i] {
            0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0.. => false,
            x if x == slash => c[i - 1] != slash,
            x if x == dot && c[i - 1] == dot => !(c[i - 2] == slash && ends),
            x if x == dot => !(c[i - 1] == slash && ends),
            _ => true,
        }
    })
}

/// The first bytes of a connection.
pub fn words(bytes: &[u8]) {
    let Some(first) = bytes.first_chunk::<4>() else { return };
    let Some(word) = Word::parse(first) else { return };
    assert!(word.is_complete(bytes) || (word == Word::Stmk && bytes.len() < 12));
    assert_eq!(Word::parse(first), Some(word));
}

/// A `zoo.cfg`, from its bytes to the settings or the refusal, and what is printed of either. The first byte says what
/// stands in `myid`.
pub fn zoo_cfg(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let file = PathBuf::from("zoo.cfg");
    let Ok(main) = ConfigFile::parse(Path::new("zoo.cfg"), bytes) else { return };
    assert!(main.entries.len() <= bytes.len());
    let my_id = match kind % 3 {
        0 => MyId::Missing,
        1 => MyId::FirstLine("1".to_owned()),
        _ => MyId::first_line(bytes),
    };
    let raw = RawConfig {
        invocation: Invocation::File(file),
        main: Some(main.clone()),
        dynamic: (kind & 0x80 != 0).then_some(main),
        my_id,
        data_dir: DirState::Directory,
        data_log_dir: DirState::Missing,
    };
    match Settings::resolve(raw, &Env::empty()) {
        Ok((settings, findings)) => drop(config::explain(&settings, &findings)),
        Err(refusal) => {
            assert_ne!(refusal.exit_code(), 0);
            drop((config::explain_refusal(&refusal), refusal.to_string()));
        }
    }
}

pub(crate) fn path_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "/",
        "/a",
        "/a/b.c/..d",
        "/a/./b",
        "/a/..",
        "/ä/\u{ffff}",
        "/😀",
        "/a\u{7f}",
        "//",
        "/a/",
        "",
        "a",
        "/…",
    ];
    texts.iter().map(|t| t.as_bytes().to_vec()).collect()
}

pub(crate) fn word_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = ["ruok", "srvr", "mntr", "wchc", "\0\0\0\x2d"].map(|w| w.into()).into();
    seeds.push(b"stmk\0\0\0\0\0\0\x01\x02".to_vec());
    seeds.push(vec![0xff, 0xf4, 0xff, 0xfd, 6]);
    seeds
}

pub(crate) fn zoo_cfg_seeds() -> Vec<Vec<u8>> {
    let every_key: String =
        config::keys::KEYS.iter().map(|k| format!("{}={}\n", k.name, k.default)).collect();
    let texts = [
        "dataDir=/d\nclientPort=2181\ntickTime=2000\ninitLimit=10\nsyncLimit=5\n".to_owned(),
        "dataDir=/d\nserver.1=a:2888:3888:participant;2181\nserver.2=[::1]:2888:3888:observer;0.0.0.0:2181\n\
         server.3=c:1:2|d:1:2\ngroup.1=1:2\nweight.1=3\n4lw.commands.whitelist=ruok, mntr, *\n"
            .to_owned(),
        "# a comment\n! another\n key\\ with\\ blanks : value \\\n   continued\\u00e4\\t\n\\u0041=x"
            .to_owned(),
        format!("dataDir=/d\nclientPort=2181\n{every_key}"),
    ];
    let kinds = [0_u8, 1, 0x82];
    texts.iter().flat_map(|t| kinds.map(|k| [&[k], t.as_bytes()].concat())).collect()
}
