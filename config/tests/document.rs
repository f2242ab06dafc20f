//! `docs/configuration.md` is made from the table. `UPDATE_DOCS=1` rewrites it.

use std::fs;
use std::path::Path;

#[test]
fn the_page_and_the_table_agree() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let wanted = config::document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "run: UPDATE_DOCS=1 cargo test -p config --test document");
}
