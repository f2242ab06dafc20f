//! Every target over its seeds, every cut of them, and mutations that are the same on every run. `FUZZ_ROUNDS` asks for more.

use fuzz::{Mutator, TARGETS};

/// What a failure needs: the input.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("target {}, {} bytes: {:02x?}", self.0, self.1.len(), &self.1[..self.1.len().min(600)]);
        }
    }
}

fn drive(name: &str, rounds: usize) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target of that name");
    let run = |bytes: &[u8]| {
        let _shown = Shown(name, bytes);
        (target.run)(bytes);
    };
    run(&[]);
    let mut inputs = (target.seeds)();
    assert!(!inputs.is_empty());
    for seed in &inputs {
        for cut in (0..=seed.len()).step_by(seed.len() / 200 + 1) {
            run(&seed[..cut]);
        }
        run(seed);
    }
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(rounds);
    let mut mutator = Mutator::new(1);
    let seeds = inputs.len();
    for round in 0..rounds {
        let input = mutator.next_input(&inputs);
        run(&input);
        // Some mutants are mutated further.
        if round % 16 == 0 && input.len() < 1 << 16 {
            if inputs.len() < seeds + 64 {
                inputs.push(input);
            } else {
                let at = seeds + round / 16 % 64;
                inputs[at] = input;
            }
        }
    }
}

macro_rules! targets {
    ($($name:ident: $rounds:literal,)*) => {
        $(#[test] fn $name() { drive(stringify!($name), $rounds); })*

        #[test]
        fn every_target_is_driven_and_has_its_libfuzzer_program() {
            let driven = [$(stringify!($name)),*];
            assert_eq!(TARGETS.iter().map(|t| t.name).collect::<Vec<_>>(), driven);
            for name in driven {
                let program = format!("{}/libfuzzer/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
                assert!(std::path::Path::new(&program).exists(), "{program}");
            }
        }
    };
}

targets! {
    client: 100_000,
    txn: 100_000,
    state: 50_000,
    path: 50_000,
    words: 10_000,
    zoo_cfg: 2_000,
    wal_segment: 3_000,
    superblock: 5_000,
    apache_log: 10_000,
    snapshot_file: 3_000,
    snapshot_part: 2_000,
    apache_snapshot: 10_000,
    peer_packets: 50_000,
    peer_tree: 10_000,
    peer_initial: 20_000,
    peer_notification: 50_000,
}
