//! Request frames made once and copied per request: only the xid and the digits of the path change.

use proto::acl;
use proto::client::OpCode;
use proto::jute::{Put, begin_frame, end_frame};

/// Digits of a directory number in a path.
const DIR_DIGITS: usize = 6;
/// Digits of a znode number in a path.
const KEY_DIGITS: usize = 10;
/// Where the xid stands in a request frame.
const XID_AT: usize = 4;

/// How many znodes share a directory in the key space and the preloaded tree.
pub const KEYS_PER_DIR: u64 = 1000;

/// A znode of the load: its directory and its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// The number of the directory.
    pub dir: u32,
    /// The number of the znode, below 10^10.
    pub key: u64,
}

impl Key {
    /// The `i`-th znode of a space that is filled directory by directory.
    pub fn nth(i: u64) -> Key {
        Key { dir: (i / KEYS_PER_DIR) as u32, key: i }
    }
}

/// The paths of one family of znodes: `PREFIX/d000012/n0000012345`.
#[derive(Clone, Debug)]
pub struct Paths {
    prefix: String,
}

impl Paths {
    /// The family below `prefix`, a path without a slash at its end.
    pub fn below(prefix: String) -> Paths {
        Paths { prefix }
    }

    /// The directory that holds the family.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The path of a directory.
    pub fn dir(&self, dir: u32) -> String {
        format!("{}/d{dir:0DIR_DIGITS$}", self.prefix)
    }

    /// The path of a znode.
    pub fn key(&self, k: Key) -> String {
        format!("{}/n{:0KEY_DIGITS$}", self.dir(k.dir), k.key)
    }
}

/// A request frame with holes.
#[derive(Debug)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the digits of the directory of each path start; those of the znode follow after `/n`.
    paths: Vec<usize>,
}

impl Template {
    /// setData of `size` bytes.
    pub fn set(paths: &Paths, size: usize) -> Template {
        Template::single(OpCode::SetData, |t| t.set_body(paths, size))
    }

    /// getData without, or with, a watch.
    pub fn get(paths: &Paths, watch: bool) -> Template {
        Template::single(OpCode::GetData, |t| {
            t.path(paths);
            t.bytes.put_bool(watch);
        })
    }

    /// create of a persistent znode of `size` bytes.
    pub fn create(paths: &Paths, size: usize) -> Template {
        Template::single(OpCode::Create, |t| t.create_body(paths, size))
    }

    /// A multi of `n` setData.
    pub fn multi_set(paths: &Paths, size: usize, n: usize) -> Template {
        Template::multi(OpCode::SetData, n, |t| t.set_body(paths, size))
    }

    /// A multi of `n` creates.
    pub fn multi_create(paths: &Paths, size: usize, n: usize) -> Template {
        Template::multi(OpCode::Create, n, |t| t.create_body(paths, size))
    }

    /// A multi of `n` deletes.
    pub fn multi_delete(paths: &Paths, n: usize) -> Template {
        Template::multi(OpCode::Delete, n, |t| t.delete_body(paths))
    }

    /// A delete.
    pub fn delete(paths: &Paths) -> Template {
        Template::single(OpCode::Delete, |t| t.delete_body(paths))
    }

    /// Bytes of the frame.
    pub fn encoded_len(&self) -> usize {
        self.bytes.len()
    }

    /// How many znodes the request names.
    pub fn width(&self) -> usize {
        self.paths.len()
    }

    /// Appends the frame with these holes filled; `key` is asked once per path.
    pub fn fill(&self, out: &mut Vec<u8>, xid: i32, mut key: impl FnMut() -> Key) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let frame = &mut out[start..];
        frame[XID_AT..XID_AT + 4].copy_from_slice(&xid.to_be_bytes());
        for at in &self.paths {
            let k = key();
            digits(&mut frame[*at..*at + DIR_DIGITS], k.dir.into());
            let key_at = at + DIR_DIGITS + 2;
            digits(&mut frame[key_at..key_at + KEY_DIGITS], k.key);
        }
    }

    fn single(op: OpCode, body: impl FnOnce(&mut Template)) -> Template {
        let mut t = Template { bytes: Vec::new(), paths: Vec::new() };
        let at = t.begin(op);
        body(&mut t);
        end_frame(&mut t.bytes, at);
        t
    }

    fn multi(op: OpCode, n: usize, body: impl Fn(&mut Template)) -> Template {
        let mut t = Template { bytes: Vec::new(), paths: Vec::new() };
        let at = t.begin(OpCode::Multi);
        for _ in 0..n {
            put_multi_head(&mut t.bytes, op);
            body(&mut t);
        }
        put_multi_tail(&mut t.bytes);
        end_frame(&mut t.bytes, at);
        t
    }

    fn begin(&mut self, op: OpCode) -> usize {
        let at = begin_frame(&mut self.bytes);
        self.bytes.put_i32(0);
        self.bytes.put_i32(op.wire());
        at
    }

    fn path(&mut self, paths: &Paths) {
        let path = paths.key(Key { dir: 0, key: 0 });
        self.bytes.put_str(&path);
        self.paths.push(self.bytes.len() - KEY_DIGITS - 2 - DIR_DIGITS);
    }

    fn set_body(&mut self, paths: &Paths, size: usize) {
        self.path(paths);
        self.bytes.put_buffer(Some(&payload(size)));
        self.bytes.put_i32(-1);
    }

    fn create_body(&mut self, paths: &Paths, size: usize) {
        self.path(paths);
        self.bytes.put_buffer(Some(&payload(size)));
        self.bytes.extend_from_slice(acl::OPEN.as_bytes());
        self.bytes.put_i32(0);
    }

    fn delete_body(&mut self, paths: &Paths) {
        self.path(paths);
        self.bytes.put_i32(-1);
    }
}

/// Appends the head of one operation of a multi request.
pub fn put_multi_head(out: &mut Vec<u8>, op: OpCode) {
    out.put_i32(op.wire());
    out.put_bool(false);
    out.put_i32(-1);
}

/// Appends the end mark of a multi request.
pub fn put_multi_tail(out: &mut Vec<u8>) {
    proto::client::put_multi_end(out);
}

/// The error of a multi from the body of its reply, whose head says 0 even when it failed: the code of the
/// operation that failed, 0 if none did.
pub fn multi_error(body: &[u8]) -> i32 {
    const ERROR_RESULT: usize = 9 + 4;
    let undone = proto::Code::RuntimeInconsistency.wire();
    let mut first = 0;
    for result in body.chunks(ERROR_RESULT) {
        // A result that is no error (type −1, not the end mark) means that all went well.
        let Some((&[0xff, 0xff, 0xff, 0xff, 0], err)) = result.split_first_chunk::<5>() else { break };
        let err = err.first_chunk::<4>().map_or(0, |e| i32::from_be_bytes(*e));
        if err != 0 && err != undone {
            return err;
        }
        first = if first == 0 { err } else { first };
    }
    first
}

/// Appends a whole request.
pub fn request(out: &mut Vec<u8>, xid: i32, op: OpCode, body: impl FnOnce(&mut Vec<u8>)) {
    let at = begin_frame(out);
    out.put_i32(xid);
    out.put_i32(op.wire());
    body(out);
    end_frame(out, at);
}

/// A value of `size` bytes that neither compresses to nothing nor looks random: words and numbers.
pub fn payload(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(size + 16);
    while out.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        out.extend_from_slice(format!("{:x},falconer;", state >> 40).as_bytes());
    }
    out.truncate(size);
    out
}

fn digits(out: &mut [u8], mut n: u64) {
    for d in out.iter_mut().rev() {
        *d = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::client::{ReadOp, RequestHeader, WriteOp};
    use proto::jute::Reader;

    fn keys() -> impl FnMut() -> Key {
        let mut n = 1234;
        move || {
            n += 1;
            Key::nth(n)
        }
    }

    #[test]
    fn filled_templates_are_requests_that_the_protocol_decodes() {
        let paths = Paths::below("/bench/keys".into());
        for (template, op) in [
            (Template::set(&paths, 100), OpCode::SetData),
            (Template::create(&paths, 100), OpCode::Create),
            (Template::delete(&paths), OpCode::Delete),
            (Template::multi_set(&paths, 10, 3), OpCode::Multi),
            (Template::multi_create(&paths, 10, 3), OpCode::Multi),
            (Template::multi_delete(&paths, 3), OpCode::Multi),
        ] {
            let mut out = Vec::new();
            template.fill(&mut out, 77, keys());
            assert_eq!(out.len() - 4, u32::from_be_bytes(out[..4].try_into().unwrap()) as usize);
            let mut r = Reader::new(&out[4..]);
            let head = RequestHeader::decode(&mut r).unwrap();
            assert_eq!((head.xid.0, head.op), (77, op.wire()));
            let decoded = WriteOp::decode(op, &mut r).expect("a write").expect("decodes");
            assert_eq!(r.remaining(), 0);
            let text = format!("{decoded:?}");
            for i in 0..template.width() as u64 {
                assert!(text.contains(&format!("/bench/keys/d000001/n{:010}", 1235 + i)), "{text}");
            }
        }
    }

    #[test]
    fn reads_decode_too() {
        let mut out = Vec::new();
        Template::get(&Paths::below("/a".into()), true).fill(&mut out, 1, || Key { dir: 7, key: 8 });
        let op = ReadOp::decode(OpCode::GetData, &mut Reader::new(&out[12..])).unwrap().unwrap();
        assert_eq!(op, ReadOp::GetData { path: "/a/d000007/n0000000008".into(), watch: true });
    }

    #[test]
    fn a_failed_multi_names_the_operation_that_failed() {
        use proto::client::{MultiResult, WriteReply};
        use proto::{Xid, Zxid};
        let body = |results: &[MultiResult]| {
            let mut out = Vec::new();
            WriteReply::Multi(results).encode_frame(&mut out, Xid(1), Zxid::ZERO);
            out[20..].to_vec()
        };
        assert_eq!(multi_error(&body(&[MultiResult::Check, MultiResult::Delete])), 0);
        let failed = [0, 0, -101, -2, -2].map(MultiResult::Error);
        assert_eq!(multi_error(&body(&failed)), -101);
        assert_eq!(multi_error(&body(&[])), 0);
    }

    #[test]
    fn payload_has_the_size_asked_for() {
        for size in [0, 1, 100, 1024] {
            assert_eq!(payload(size).len(), size);
        }
    }
}
