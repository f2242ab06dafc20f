//! Real configurations, and the report on each: `zoo/X.cfg`, with `X.myid`, `X.dynamic` and `X.flags` (SERVER_JVMFLAGS)
//! where there are such, gives `zoo/X.report`. `UPDATE_REPORTS=1` rewrites the reports; read the diff.

use std::fs;
use std::path::{Path, PathBuf};

use config::{ConfigFile, DirState, Env, Invocation, MyId, RawConfig, Settings, explain, explain_refusal};

fn configurations() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "cfg"));
    files.sort();
    files
}

/// As `RawConfig::read` would, but for the machine the file was written for.
fn raw(cfg: &Path) -> (RawConfig, Env) {
    let beside = |extension| fs::read(cfg.with_extension(extension)).ok();
    let invocation = Invocation::File("zoo.cfg".into());
    let file = |path: &str, bytes: Vec<u8>| ConfigFile::parse(Path::new(path), &bytes).unwrap();
    let main = file("zoo.cfg", fs::read(cfg).unwrap());
    let dynamic = beside("dynamic").map(|bytes| {
        let path = main.entries.iter().find(|e| e.key == "dynamicConfigFile").unwrap().value.clone();
        file(&path, bytes)
    });
    let my_id = beside("myid").map_or(MyId::Missing, |bytes| MyId::first_line(&bytes));
    let flags = beside("flags").map(|bytes| String::from_utf8(bytes).unwrap());
    let env = Env::from_variables(|name| if name == "SERVER_JVMFLAGS" { flags.clone() } else { None });
    let (data_dir, data_log_dir) = (DirState::Missing, DirState::Missing);
    (RawConfig { invocation, main: Some(main), dynamic, my_id, data_dir, data_log_dir }, env)
}

#[test]
fn each_configuration_is_explained_as_recorded() {
    let files = configurations();
    assert!(files.len() >= 12, "the collection is not where it should be");
    let mut parted = Vec::new();
    for cfg in files {
        let (raw, env) = raw(&cfg);
        let report = match Settings::resolve(raw, &env) {
            Ok((settings, findings)) => explain(&settings, &findings),
            Err(refusal) => explain_refusal(&refusal),
        };
        assert!(
            !report.contains("hunter2") && !report.contains("D/InIHSb7"),
            "{}: shows a secret",
            cfg.display()
        );
        let recorded = cfg.with_extension("report");
        if std::env::var_os("UPDATE_REPORTS").is_some() {
            fs::write(&recorded, &report).unwrap();
        }
        if fs::read_to_string(&recorded).ok().as_deref() != Some(&report) {
            parted.push(format!("{}:\n{report}", cfg.display()));
        }
    }
    assert!(parted.is_empty(), "UPDATE_REPORTS=1 rewrites these reports:\n{}", parted.join("\n"));
}
