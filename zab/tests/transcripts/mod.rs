//! Transcripts: text files of which each line says something, but for what stands behind a `#`.

/// The transcripts of a folder of `tests/`: the name of each, and its lines with their numbers.
///
/// # Panics
/// When they can't be read.
pub fn of(folder: &str) -> Vec<(String, Vec<(usize, String)>)> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| line.split('#').next().unwrap().trim().to_owned());
        let lines = (1..).zip(lines).filter(|(_, line)| !line.is_empty());
        (path.file_name().unwrap().to_string_lossy().into_owned(), lines.collect())
    };
    std::fs::read_dir(dir).unwrap().map(read).collect()
}
