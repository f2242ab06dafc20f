//! Reading one snapshot of Apache's.

use super::stream::{FileSource, Stream};
use super::{Compression, MAGIC, TreeDigest, parse_name, snappy};
use crate::error::{Damage, Error, LoadError};
use crate::format::Counts;
use crate::limits::{APACHE_ACL_ENTRIES_MAX, APACHE_FIELD_MAX, APACHE_PART_TARGET, APACHE_TAIL_MAX};
use crate::{Digest, Kind, records};
use proto::{StatPersisted, Zxid};
use simd_adler32::Adler32;
use std::borrow::Cow;
use std::io::Read;
use vfs::{Access, Dir};

/// What a snapshot held beside its parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Records by kind.
    pub counts: Counts,
    /// The digest section.
    pub digest: Option<TreeDigest>,
    /// The last-processed section. Informative: the name says from where to replay.
    pub last_processed: Option<Zxid>,
}

/// What takes the parts: kind, records, bytes.
pub type Sink<'a, E> = dyn FnMut(Kind, u32, &[u8]) -> Result<(), E> + 'a;

/// The cheap check that Apache makes before it considers a file (storage format, section 4.4).
pub fn precheck(dir: &dyn Dir, name: &str) -> Result<(), Error> {
    let path = dir.path().join(name).display().to_string();
    let compression = compression_of(name, &path)?;
    let file = dir.open(name, Access::READ).map_err(|e| Error::io(&path, "open", e))?;
    let len = file.len().map_err(|e| Error::io(&path, "measure", e))?;
    let (at, wanted): (u64, &[u8]) = match compression {
        Compression::Plain if len < 10 => {
            return Err(Error::damaged(&path, 0, Damage::Truncated { wanted: 10, found: len }));
        }
        Compression::Plain => (len - TERMINATOR.len() as u64, TERMINATOR),
        Compression::Gzip => (0, &[0x1f, 0x8b]),
        Compression::Snappy => (0, &snappy::MAGIC),
    };
    let mut found = [0; 8];
    let found = &mut found[..wanted.len()];
    let n = file.read_at(found, at).map_err(|e| Error::io(&path, "read", e))?;
    if n == wanted.len() && found == wanted {
        return Ok(());
    }
    let number = |b: &[u8]| b.iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
    let name = match compression {
        Compression::Plain => "terminator at the end",
        Compression::Gzip | Compression::Snappy => "magic of the compression",
    };
    Err(Error::damaged(&path, at, Damage::Field { name, wanted: number(wanted), found: number(&found[..n]) }))
}

/// Reads the snapshot `name`, decompressing as its extension says. Everything is verified as it is read, but
/// only at the end is it known that all was right: after an error the sink's state is to be thrown away.
pub fn read<E>(dir: &dyn Dir, name: &str, sink: &mut Sink<'_, E>) -> Result<Summary, LoadError<E>> {
    let path = dir.path().join(name).display().to_string();
    let compression = compression_of(name, &path)?;
    let file = dir.open(name, Access::READ).map_err(|e| Error::io(&path, "open", e))?;
    let source = FileSource::new(file);
    match compression {
        Compression::Plain => read_stream(source, &path, sink),
        Compression::Gzip => read_stream(flate2::read::MultiGzDecoder::new(source), &path, sink),
        Compression::Snappy => read_stream(snappy::Reader::new(source), &path, sink),
    }
}

/// Reads a whole snapshot and decodes every record, keeping nothing.
pub fn verify(dir: &dyn Dir, name: &str) -> Result<Summary, Error> {
    let path = dir.path().join(name).display().to_string();
    read(dir, name, &mut |kind, count, bytes| records::check(kind, count, bytes)).map_err(|e| match e {
        LoadError::Snapshot(e) => e,
        LoadError::Sink(damage) => Error::damaged(&path, 0, damage),
    })
}

/// Reads the uncompressed stream of a snapshot file. `path` is for errors.
/// Memory is bounded whatever the stream decompresses to; a sink that counts bytes caps the rest.
pub fn read_stream<R: Read, E>(
    source: R,
    path: &str,
    sink: &mut Sink<'_, E>,
) -> Result<Summary, LoadError<E>> {
    let mut s = Stream::new(source, path);
    if s.peek(MAGIC.len())? != MAGIC {
        let found = s.peek_i32(0)? as u32;
        let damage = Damage::Field {
            name: "magic",
            wanted: u64::from(u32::from_be_bytes(*MAGIC)),
            found: u64::from(found),
        };
        return Err(s.damaged(damage).into());
    }
    s.peek(FILE_HEADER_LEN)?;
    s.consume(FILE_HEADER_LEN);
    let counts = body(&mut s, sink)?;
    seal(&mut s)?;
    let at = s.offset();
    let (tail, adler) = s.rest(APACHE_TAIL_MAX)?;
    let (digest, last_processed) =
        sections(&tail, adler).map_err(|damage| Error::damaged(path, at, damage))?;
    Ok(Summary { counts, digest, last_processed })
}

/// Reads the body alone, as a leader sends it in SNAP (no header, no seals). Returns with the counts the
/// bytes that were read from `source` and lie behind the body.
pub fn read_body<R: Read, E>(
    source: R,
    path: &str,
    sink: &mut Sink<'_, E>,
) -> Result<(Counts, Vec<u8>), LoadError<E>> {
    let mut s = Stream::new(source, path);
    let counts = body(&mut s, sink)?;
    Ok((counts, s.ahead().to_vec()))
}

/// The path "/" as a string: ends the znodes, and each seal.
const TERMINATOR: &[u8; 5] = b"\x00\x00\x00\x01/";
const FILE_HEADER_LEN: usize = 16;
const SEAL_LEN: usize = 8 + TERMINATOR.len();

/// Gathers records into parts.
struct Parts<'s, 'a, E> {
    sink: &'s mut Sink<'a, E>,
    counts: Counts,
    count: u32,
    bytes: Vec<u8>,
}

impl<E> Parts<'_, '_, E> {
    fn push(&mut self, kind: Kind, record: &[u8]) -> Result<(), LoadError<E>> {
        self.bytes.extend_from_slice(record);
        self.count += 1;
        if self.bytes.len() >= APACHE_PART_TARGET { self.flush(kind) } else { Ok(()) }
    }

    fn flush(&mut self, kind: Kind) -> Result<(), LoadError<E>> {
        if self.count > 0 {
            (self.sink)(kind, self.count, &self.bytes).map_err(LoadError::Sink)?;
            self.counts.add(kind, u64::from(self.count));
        }
        self.count = 0;
        self.bytes.clear();
        Ok(())
    }
}

fn body<R: Read, E>(s: &mut Stream<R>, sink: &mut Sink<'_, E>) -> Result<Counts, LoadError<E>> {
    let mut parts = Parts { sink, counts: Counts::default(), count: 0, bytes: Vec::new() };
    for _ in 0..count(s, "sessions")? {
        parts.push(Kind::Sessions, s.peek(SESSION_LEN)?)?;
        s.consume(SESSION_LEN);
    }
    parts.flush(Kind::Sessions)?;
    for _ in 0..count(s, "ACLs")? {
        let len = acl_len(s)?;
        parts.push(Kind::Acls, s.peek(len)?)?;
        s.consume(len);
    }
    parts.flush(Kind::Acls)?;
    let mut root_seen = false;
    while s.peek(TERMINATOR.len())? != TERMINATOR {
        node(s, &mut parts, &mut root_seen)?;
    }
    if !root_seen {
        return Err(s.damaged(Damage::Rule("the znodes end before the root")).into());
    }
    s.consume(TERMINATOR.len());
    parts.flush(Kind::Nodes)?;
    Ok(parts.counts)
}

const SESSION_LEN: usize = 8 + 4;

fn count<R: Read>(s: &mut Stream<R>, name: &'static str) -> Result<i32, Error> {
    let found = s.peek_i32(0)?;
    if found < 0 {
        let damage = Damage::Field { name, wanted: i32::MAX as u64, found: u64::from(found as u32) };
        return Err(s.damaged(damage));
    }
    s.i32()
}

/// Bytes of the ACL record that starts here.
fn acl_len<R: Read>(s: &mut Stream<R>) -> Result<usize, Error> {
    let n = s.peek_i32(8)?;
    let Some(n) = usize::try_from(n).ok().filter(|&n| n <= APACHE_ACL_ENTRIES_MAX) else {
        let damage = Damage::Field {
            name: "entries of an ACL",
            wanted: APACHE_ACL_ENTRIES_MAX as u64,
            found: u64::from(n as u32),
        };
        return Err(s.damaged(damage));
    };
    let mut len = 8 + 4;
    for _ in 0..n {
        len += 4;
        len += field_len(s, len)?;
        len += field_len(s, len)?;
    }
    Ok(len)
}

/// Bytes, its length included, of the string or buffer that starts `ahead` bytes from here.
fn field_len<R: Read>(s: &mut Stream<R>, ahead: usize) -> Result<usize, Error> {
    match s.peek_i32(ahead)? {
        -1 => Ok(4),
        n if n < 0 || n as usize > APACHE_FIELD_MAX => {
            let damage = Damage::Field {
                name: "length of a field",
                wanted: APACHE_FIELD_MAX as u64,
                found: u64::from(n as u32),
            };
            Err(s.damaged(damage))
        }
        n => Ok(4 + n as usize),
    }
}

fn node<R: Read, E>(
    s: &mut Stream<R>,
    parts: &mut Parts<'_, '_, E>,
    root_seen: &mut bool,
) -> Result<(), LoadError<E>> {
    let path_len = field_len(s, 0)?;
    let len = path_len + field_len(s, path_len)? + 8 + StatPersisted::LEN;
    let record = s.peek(len)?;
    let path = &record[4..path_len];
    let rule = match path {
        [] if record[..4] != [0; 4] => Some("the path of a znode is null"),
        [] if *root_seen => Some("the root comes twice"),
        [] => None,
        _ if !*root_seen => Some("a znode comes before the root"),
        [b'/', .., b'/'] => Some("the path of a znode ends with /"),
        [b'/', ..] => None,
        _ => Some("the path of a znode does not start with /"),
    };
    if let Some(rule) = rule {
        return Err(s.damaged(Damage::Rule(rule)).into());
    }
    *root_seen = true;
    match to_utf8(path) {
        Cow::Borrowed(_) => parts.push(Kind::Nodes, record)?,
        Cow::Owned(path) => {
            let length = i32::try_from(path.len()).expect("at most three times APACHE_FIELD_MAX");
            let record = [&length.to_be_bytes(), path.as_bytes(), &record[path_len..]].concat();
            parts.push(Kind::Nodes, &record)?;
        }
    }
    s.consume(len);
    Ok(())
}

/// Apache writes a character beyond the basic plane as two surrogates of three bytes each (CESU-8), which is
/// not UTF-8. They become the character they mean; other malformed bytes become U+FFFD, as in Apache's
/// reader.
fn to_utf8(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::new();
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        if let Some(c) = surrogates(&bytes[at..]) {
            text.push_str(&proto::jute::text(&bytes[start..at]));
            text.push(c);
            at += 6;
            start = at;
        } else {
            at += 1;
        }
    }
    text.push_str(&proto::jute::text(&bytes[start..]));
    Cow::Owned(text)
}

/// The character whose two surrogates stand at the start of `bytes`.
fn surrogates(bytes: &[u8]) -> Option<char> {
    let [0xed, a @ 0xa0..=0xaf, b @ 0x80..=0xbf, 0xed, c @ 0xb0..=0xbf, d @ 0x80..=0xbf, ..] = *bytes else {
        return None;
    };
    let bits = |high: u8, low: u8| u32::from(high & 0x0f) << 6 | u32::from(low & 0x3f);
    char::from_u32(0x1_0000 + (bits(a, b) << 10) + bits(c & 0x0f, d))
}

/// Checks and consumes the seal that stands here.
fn seal<R: Read>(s: &mut Stream<R>) -> Result<(), Error> {
    let found = s.sum();
    let bytes = s.peek(SEAL_LEN)?;
    check_seal(bytes, found).map_err(|damage| s.damaged(damage))?;
    s.consume(SEAL_LEN);
    Ok(())
}

fn check_seal(seal: &[u8], found: u32) -> Result<(), Damage> {
    let wanted = u32::from_be_bytes([seal[4], seal[5], seal[6], seal[7]]);
    if seal[..4] != [0; 4] || wanted != found {
        return Err(Damage::Checksum { of: "all before the seal", wanted, found });
    }
    if &seal[8..SEAL_LEN] != TERMINATOR {
        return Err(Damage::Rule("a seal does not end with the path /"));
    }
    Ok(())
}

/// The optional sections: which of them are there is told by their lengths, and their seals say whether that
/// was right.
fn sections(tail: &[u8], mut adler: Adler32) -> Result<(Option<TreeDigest>, Option<Zxid>), Damage> {
    const ZXID_LEN: usize = 8;
    let mut rest = tail;
    let mut digest = None;
    if rest.len() > ZXID_LEN + SEAL_LEN {
        let len = digest_len(rest)?;
        digest = Some(decode_digest(sealed(&mut rest, len, &mut adler)?));
    }
    if rest.is_empty() {
        return Ok((digest, None));
    }
    let last = sealed(&mut rest, ZXID_LEN, &mut adler)?;
    let last = Zxid::from_u64(u64_at(last, 0));
    match rest.len() {
        0 => Ok((digest, Some(last))),
        left => Err(Damage::Field { name: "bytes behind the last seal", wanted: 0, found: left as u64 }),
    }
}

/// Takes a section of `len` bytes and its seal off `rest`.
fn sealed<'a>(rest: &mut &'a [u8], len: usize, adler: &mut Adler32) -> Result<&'a [u8], Damage> {
    let wanted = len + SEAL_LEN;
    let Some((whole, behind)) = rest.split_at_checked(wanted) else {
        return Err(Damage::Truncated { wanted: wanted as u64, found: rest.len() as u64 });
    };
    let (section, seal) = whole.split_at(len);
    adler.write(section);
    check_seal(seal, adler.finish())?;
    adler.write(seal);
    *rest = behind;
    Ok(section)
}

/// Bytes of the digest section at the start of `rest`, which has more than 21.
fn digest_len(rest: &[u8]) -> Result<usize, Damage> {
    if digest_version(rest) >= 2 {
        return Ok(8 + 4 + 8);
    }
    let len = i32::from_be_bytes([rest[12], rest[13], rest[14], rest[15]]);
    let text = usize::try_from(len).ok().filter(|&n| n <= APACHE_TAIL_MAX);
    let wanted = APACHE_TAIL_MAX as u64;
    let text =
        text.ok_or(Damage::Field { name: "length of the digest", wanted, found: u64::from(len as u32) })?;
    Ok(8 + 4 + 4 + text)
}

fn digest_version(section: &[u8]) -> i32 {
    i32::from_be_bytes([section[8], section[9], section[10], section[11]])
}

fn decode_digest(section: &[u8]) -> TreeDigest {
    let digest = u32::try_from(digest_version(section))
        .ok()
        .filter(|&version| version >= 2)
        .map(|version| Digest { version, value: u64_at(section, 12) as i64 });
    TreeDigest { zxid: Zxid::from_u64(u64_at(section, 0)), digest }
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    b[at..at + 8].iter().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

fn compression_of(name: &str, path: &str) -> Result<Compression, Error> {
    let rule = Damage::Rule("the name is not that of an Apache snapshot");
    parse_name(name).map(|(_, compression)| compression).ok_or_else(|| Error::damaged(path, 0, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surrogates_become_the_character_they_mean() {
        assert_eq!(to_utf8(b"/plain"), "/plain");
        // U+1F600 as D83D DE00.
        assert_eq!(to_utf8(b"/a\xed\xa0\xbd\xed\xb8\x80z"), "/a\u{1f600}z");
        assert_eq!(to_utf8(b"\xed\xa0\x80\xed\xb0\x80"), "\u{10000}");
        assert_eq!(to_utf8(b"\xed\xaf\xbf\xed\xbf\xbf"), "\u{10ffff}");
        assert_eq!(to_utf8(b"/lone\xed\xa0\xbd"), "/lone\u{fffd}");
        assert_eq!(to_utf8(b"/\xff"), "/\u{fffd}");
    }
}
