//! `docs/traps.md` names the test that holds each trap: all of them exist.

use std::fs;
use std::path::Path;

#[test]
fn what_is_said_to_hold_each_trap_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| {
        fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("docs/traps.md names {path}: {e}"))
    };
    let mutants = read("proto/src/mutant.rs");
    let page = read("docs/traps.md");
    let mut traps = 0;
    for row in page.lines().filter(|line| line.starts_with("| T")) {
        traps += 1;
        assert!(row.starts_with(&format!("| T{traps} |")), "one row for each trap, in order: {row}");
        let mut file = String::new();
        for name in row.split('`').skip(1).step_by(2) {
            if name.contains('/') {
                file = read(name);
            } else if name.contains('_') {
                let is_there =
                    [format!("fn {name}("), format!("def {name}(")].iter().any(|f| file.contains(f));
                assert!(is_there, "T{traps}: there is no {name} in the file before it");
            } else {
                assert!(mutants.contains(&format!("{name},")), "T{traps}: there is no mutant {name}");
            }
        }
    }
    assert_eq!(traps, 36);
}
