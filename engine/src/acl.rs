//! Who may do what: identities of connections, access control lists, credentials (semantics, section 6).
//!
//! A list is checked far more often than it is set, so the encoded list stays the value and the open list is
//! recognised by its bytes. Schemes known here: `world`, `digest`, `ip`, `auth` (expanded when a list is set,
//! never stored) and `super` (held by connections, never stored). Entries of other schemes, as an imported tree
//! may hold, match nobody.

use crate::limits::{IDS_BYTES_MAX, IDS_MAX, RECORD_BYTES_MAX};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::acl::{AclBytes, AclEntry, Id, OPEN};
use proto::jute::{Put, Reader};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

const WORLD: &str = "world";
const ANYONE: &str = "anyone";
const AUTH: &str = "auth";
const DIGEST: &str = "digest";
const IP: &str = "ip";
const SUPER: &str = "super";

/// The ids that a connection holds. Immutable: a connection that authenticates gets a new one, shared by
/// reference with the requests that were read under it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    ids: Box<[Id]>,
    /// The parsed form of the `ip` ids, in their order.
    addresses: Box<[IpAddr]>,
    is_super: bool,
}

impl Identity {
    /// An identity that holds `ids`, each once, in their order.
    pub fn new(ids: Vec<Id>) -> Identity {
        let mut unique: Vec<Id> = Vec::with_capacity(ids.len());
        for id in ids {
            if !unique.contains(&id) {
                unique.push(id);
            }
        }
        Identity {
            addresses: unique.iter().filter(|i| i.scheme == IP).filter_map(|i| address(&i.id)).collect(),
            is_super: unique.iter().any(|i| i.scheme == SUPER),
            ids: unique.into(),
        }
    }

    /// What a connection from `remote` starts with.
    pub fn of_address(remote: IpAddr) -> Identity {
        Identity::new(vec![ip_id(remote)])
    }

    /// This identity and `id`.
    #[must_use]
    pub fn with(self: &Arc<Identity>, id: Id) -> Arc<Identity> {
        if self.ids.contains(&id) {
            return Arc::clone(self);
        }
        let mut ids = self.ids.to_vec();
        ids.push(id);
        Arc::new(Identity::new(ids))
    }

    /// This identity with what [`authenticate`] gave.
    ///
    /// # Errors
    /// [`AuthFailed`] when the connection would hold more than [`IDS_MAX`] ids or [`IDS_BYTES_MAX`] bytes of them.
    pub fn gain(self: &Arc<Identity>, ids: Vec<Id>) -> Result<Arc<Identity>, AuthFailed> {
        let all = ids.into_iter().fold(Arc::clone(self), |held, id| held.with(id));
        let bytes: usize = all.ids.iter().map(|id| id.scheme.len() + id.id.len()).sum();
        if all.ids.len() > IDS_MAX || bytes > IDS_BYTES_MAX { Err(AuthFailed) } else { Ok(all) }
    }

    /// The ids, in the order in which they were gained.
    pub fn ids(&self) -> &[Id] {
        &self.ids
    }

    /// Whether every ACL check is passed.
    pub fn is_super(&self) -> bool {
        self.is_super
    }

    fn matches(&self, scheme: &str, id: &str) -> bool {
        match scheme {
            IP => AddressRange::parse(id).is_some_and(|r| self.addresses.iter().any(|&a| r.contains(a))),
            DIGEST => self.ids.iter().any(|held| held.scheme == DIGEST && held.id == id),
            _ => false,
        }
    }
}

/// Whether the list lets `who` do `perm` (one bit of [`proto::acl::perms`]). A null or empty list lets everybody.
pub fn allows(acl: AclBytes<'_>, perm: i32, who: &Identity) -> bool {
    if acl == OPEN || who.is_super {
        return true;
    }
    let mut empty = true;
    for entry in acl.entries() {
        empty = false;
        let (Some(scheme), Some(id)) = (entry.scheme, entry.id) else { continue };
        if entry.perms & perm != 0 && ((scheme == WORLD && id == ANYONE) || who.matches(&scheme, &id)) {
            return true;
        }
    }
    empty
}

/// The list is null, empty, holds an unknown scheme or a malformed id, or `auth` expands to nothing or to more
/// than a record can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidAcl;

/// The list as it is stored (semantics, section 6.2): duplicates dropped, `auth` expanded to one entry for each
/// authenticated id of `who`, every other entry valid in its scheme. Borrowed when it is stored as it was sent.
///
/// # Errors
/// [`InvalidAcl`], which clients know as error −114.
pub fn fix_up<'a>(acl: AclBytes<'a>, who: &Identity, schemes: &Schemes) -> Result<Cow<'a, [u8]>, InvalidAcl> {
    if acl == OPEN {
        return Ok(Cow::Borrowed(acl.as_bytes()));
    }
    let mut seen = BTreeSet::new();
    let mut stored = Vec::with_capacity(acl.as_bytes().len());
    stored.put_count(0);
    let mut count = 0_usize;
    let mut put = |perms: i32, scheme: &str, id: &str| {
        stored.put_i32(perms);
        stored.put_str(scheme);
        stored.put_str(id);
        count += 1;
        // Many `auth` entries times many ids must not fill the memory: no record could hold the list.
        if stored.len() > RECORD_BYTES_MAX { Err(InvalidAcl) } else { Ok(()) }
    };
    for entry in acl.entries() {
        let AclEntry { perms, scheme, id } = entry;
        if !seen.insert((perms, scheme.clone(), id.clone())) {
            continue;
        }
        let scheme = scheme.as_deref().ok_or(InvalidAcl)?;
        if scheme == AUTH {
            let mut expanded = false;
            for held in who.ids.iter().filter(|held| schemes.authenticates(&held.scheme)) {
                put(perms, &held.scheme, &held.id)?;
                expanded = true;
            }
            if !expanded {
                return Err(InvalidAcl);
            }
            continue;
        }
        let id = id.as_deref().ok_or(InvalidAcl)?;
        if !schemes.is_valid(scheme, id) {
            return Err(InvalidAcl);
        }
        put(perms, scheme, id)?;
    }
    if count == 0 {
        return Err(InvalidAcl);
    }
    let count = i32::try_from(count).expect("a request of bounded size holds few entries");
    stored[..4].copy_from_slice(&count.to_be_bytes());
    Ok(if stored == acl.as_bytes() { Cow::Borrowed(acl.as_bytes()) } else { Cow::Owned(stored) })
}

/// A list made by [`fix_up`], as the type that txns carry.
pub fn fixed(bytes: &[u8]) -> AclBytes<'_> {
    AclBytes::decode(&mut Reader::new(bytes)).expect("fix_up encodes or keeps a well-formed list")
}

/// The list as getACL shows it to a reader without ADMIN: the hash of each `digest` id becomes `x`.
pub fn masked(acl: AclBytes<'_>) -> Cow<'_, [u8]> {
    if !acl.entries().any(|e| e.scheme.as_deref() == Some(DIGEST)) {
        return Cow::Borrowed(acl.as_bytes());
    }
    let mut out = Vec::with_capacity(acl.as_bytes().len());
    out.put_count(acl.entries().count());
    for entry in acl.entries() {
        out.put_i32(entry.perms);
        out.put_buffer(entry.scheme.as_deref().map(str::as_bytes));
        match (entry.scheme.as_deref(), entry.id.as_deref()) {
            (Some(DIGEST), Some(id)) => match id.split_once(':') {
                Some((user, _)) => out.put_str(&format!("{user}:x")),
                None => out.put_str(id),
            },
            (_, id) => out.put_buffer(id.map(str::as_bytes)),
        }
    }
    Cow::Owned(out)
}

/// The name of an id as whoAmI tells it: of `digest` the part before the hash, else the id.
pub fn user_name(id: &Id) -> &str {
    match id.scheme.as_str() {
        DIGEST => id.id.split(':').next().unwrap_or_default(),
        _ => &id.id,
    }
}

/// What the server knows about schemes.
#[derive(Clone, Debug, Default)]
pub struct Schemes {
    /// `digest`; `None` when `zookeeper.DigestAuthenticationProvider.enabled` is false: then every such entry
    /// and credential is refused.
    pub digest: Option<DigestScheme>,
}

impl Schemes {
    /// Apache's default: `digest` with SHA-1, no super user.
    pub fn standard() -> Schemes {
        Schemes { digest: Some(DigestScheme::default()) }
    }

    fn is_valid(&self, scheme: &str, id: &str) -> bool {
        match scheme {
            WORLD => id == ANYONE,
            IP => AddressRange::parse(id).is_some(),
            DIGEST => self.digest.is_some() && is_digest_id(id),
            _ => false,
        }
    }

    fn authenticates(&self, scheme: &str) -> bool {
        scheme == DIGEST && self.digest.is_some()
    }
}

/// The `digest` scheme: `user:base64(hash(user:password))`.
#[derive(Clone, Debug, Default)]
pub struct DigestScheme {
    /// `zookeeper.DigestAuthenticationProvider.digestAlg`.
    pub algorithm: DigestAlgorithm,
    /// `zookeeper.DigestAuthenticationProvider.superDigest`.
    pub super_digest: Option<SuperDigest>,
}

impl DigestScheme {
    /// The id of a credential. One without `:` counts as a user's name and password at once.
    pub fn id_of(&self, credential: &str) -> String {
        let user = credential.split(':').next().unwrap_or_default();
        let hash = self.algorithm.hash(credential.as_bytes());
        format!("{user}:{}", STANDARD.encode(hash))
    }
}

/// The id that makes a connection the super user. Its content is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SuperDigest(String);

impl SuperDigest {
    /// From the configured text, `super:<base64 of the hash>`.
    pub fn new(text: impl Into<String>) -> SuperDigest {
        SuperDigest(text.into())
    }
}

impl fmt::Debug for SuperDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SuperDigest(..)")
    }
}

/// The hash of the `digest` scheme.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "each is the function of that name")]
pub enum DigestAlgorithm {
    #[default]
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl DigestAlgorithm {
    /// The algorithm of a Java name (`SHA1`, `SHA-256`, ...); `None` for those not offered here.
    pub fn from_java_name(name: &str) -> Option<DigestAlgorithm> {
        Some(match name.to_ascii_uppercase().as_str() {
            "SHA" | "SHA1" | "SHA-1" => DigestAlgorithm::Sha1,
            "SHA-224" | "SHA224" => DigestAlgorithm::Sha224,
            "SHA-256" | "SHA256" => DigestAlgorithm::Sha256,
            "SHA-384" | "SHA384" => DigestAlgorithm::Sha384,
            "SHA-512" | "SHA512" => DigestAlgorithm::Sha512,
            _ => return None,
        })
    }

    fn hash(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            DigestAlgorithm::Sha1 => Sha1::digest(bytes).to_vec(),
            DigestAlgorithm::Sha224 => Sha224::digest(bytes).to_vec(),
            DigestAlgorithm::Sha256 => Sha256::digest(bytes).to_vec(),
            DigestAlgorithm::Sha384 => Sha384::digest(bytes).to_vec(),
            DigestAlgorithm::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }
}

/// The credential was refused: the client hears of it and is disconnected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuthFailed;

/// What an auth packet of `scheme` with `credential` from `remote` gains.
///
/// # Errors
/// [`AuthFailed`] for schemes that are unknown, disabled, or not to be had by this packet (`sasl`).
pub fn authenticate(
    scheme: &str,
    credential: &[u8],
    remote: IpAddr,
    schemes: &Schemes,
) -> Result<Vec<Id>, AuthFailed> {
    match scheme {
        IP => Ok(vec![ip_id(remote)]),
        DIGEST => {
            let digest = schemes.digest.as_ref().ok_or(AuthFailed)?;
            let id = digest.id_of(&proto::jute::text(credential));
            let mut ids = Vec::with_capacity(2);
            if digest.super_digest.as_ref().is_some_and(|s| s.0 == id) {
                ids.push(Id::new(SUPER, ""));
            }
            ids.push(Id { scheme: DIGEST.into(), id });
            Ok(ids)
        }
        _ => Err(AuthFailed),
    }
}

/// The `ip` id of an address, in Java's spelling: an IPv6 address has all its eight groups.
pub fn ip_id(remote: IpAddr) -> Id {
    let id = match remote.to_canonical() {
        IpAddr::V4(a) => a.to_string(),
        IpAddr::V6(a) => {
            let mut text = String::with_capacity(39);
            for (i, group) in a.segments().iter().enumerate() {
                let colon = if i == 0 { "" } else { ":" };
                write!(text, "{colon}{group:x}").expect("writing to a String can't fail");
            }
            text
        }
    };
    Id { scheme: IP.into(), id }
}

/// Exactly two parts around `:`, where empty parts at the end don't count (Java's `split`).
fn is_digest_id(id: &str) -> bool {
    id.trim_end_matches(':').matches(':').count() == 1
}

/// An address with the number of leading bits that must agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct AddressRange {
    address: IpAddr,
    bits: u32,
}

impl AddressRange {
    /// Reads `addr` or `addr/bits`.
    fn parse(text: &str) -> Option<AddressRange> {
        let (address, bits) = match text.split_once('/') {
            Some((a, bits)) => (address(a)?, Some(bits.parse::<u32>().ok()?)),
            None => (address(text)?, None),
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(AddressRange { address, bits })
    }

    fn contains(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                // A shift by all 32 bits leaves nothing to compare.
                (a.to_bits() ^ b.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// An address as Apache reads it: IPv4 parts may have leading zeros, IPv6 groups are hexadecimal only.
fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return ipv6(text).map(IpAddr::V6);
    }
    let mut parts = text.split('.');
    let mut octets = [0; 4];
    for octet in &mut octets {
        *octet = parts.next()?.parse::<u8>().ok()?;
    }
    parts.next().is_none().then_some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn ipv6(text: &str) -> Option<Ipv6Addr> {
    let mut groups = [0_u16; 8];
    match text.split_once("::") {
        None => {
            if fill(&mut groups, text)? != 8 {
                return None;
            }
        }
        Some((head, tail)) => {
            if tail.contains("::") {
                return None;
            }
            let (mut front, mut back) = ([0; 8], [0; 8]);
            let (h, t) = (fill(&mut front, head)?, fill(&mut back, tail)?);
            // `::` stands for at least one group.
            if h + t >= 8 {
                return None;
            }
            groups[..h].copy_from_slice(&front[..h]);
            groups[8 - t..].copy_from_slice(&back[..t]);
        }
    }
    Some(Ipv6Addr::from(groups))
}

/// Reads groups between single colons; how many there were.
fn fill(groups: &mut [u16; 8], text: &str) -> Option<usize> {
    if text.is_empty() {
        return Some(0);
    }
    let mut n = 0;
    for part in text.split(':') {
        if part.is_empty() || part.len() > 4 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *groups.get_mut(n)? = u16::from_str_radix(part, 16).ok()?;
        n += 1;
    }
    Some(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::acl::{self, perms};

    fn list(entries: &[(i32, &str, &str)]) -> Vec<u8> {
        let ids: Vec<(i32, Id)> = entries.iter().map(|&(p, s, i)| (p, Id::new(s, i))).collect();
        let mut out = Vec::new();
        acl::encode(ids.iter().map(|(p, id)| (*p, id)), &mut out);
        out
    }

    fn who(ids: &[(&str, &str)]) -> Identity {
        Identity::new(ids.iter().map(|(s, i)| Id::new(s, i)).collect())
    }

    #[test]
    fn lists_let_in_whom_they_name() {
        // (list, identity, permission asked for, answer)
        type Case<'a> = (&'a [(i32, &'a str, &'a str)], &'a [(&'a str, &'a str)], i32, bool);
        let cases: &[Case<'_>] = &[
            (&[(31, "world", "anyone")], &[], perms::ADMIN, true),
            (&[(1, "world", "anyone")], &[], perms::READ, true),
            (&[(1, "world", "anyone")], &[], perms::WRITE, false),
            (&[(1, "world", "anyone")], &[("super", "")], perms::WRITE, true),
            (&[(31, "world", "foo")], &[("world", "foo")], perms::READ, false),
            (&[], &[], perms::WRITE, true),
            (&[(31, "digest", "u:h")], &[("digest", "u:h")], perms::WRITE, true),
            (&[(31, "digest", "u:h")], &[("digest", "u:i")], perms::WRITE, false),
            (&[(31, "digest", "u:h")], &[("sasl", "u:h")], perms::WRITE, false),
            (&[(31, "sasl", "u")], &[("sasl", "u")], perms::WRITE, false),
            (&[(64, "world", "anyone")], &[], perms::READ, false),
            (&[(1, "digest", "a:b"), (2, "world", "anyone")], &[], perms::WRITE, true),
            (&[(31, "ip", "10.1.2.3")], &[("ip", "10.1.2.3")], perms::READ, true),
            (&[(31, "ip", "10.1.2.3")], &[("ip", "10.1.2.4")], perms::READ, false),
            (&[(31, "ip", "10.1.0.0/16")], &[("ip", "10.1.2.4")], perms::READ, true),
            (&[(31, "ip", "10.1.0.0/16")], &[("ip", "10.2.2.4")], perms::READ, false),
            (&[(31, "ip", "10.1.0.0/0")], &[("ip", "11.2.2.4")], perms::READ, true),
            (&[(31, "ip", "10.1.0.7/31")], &[("ip", "10.1.0.6")], perms::READ, true),
            (&[(31, "ip", "::/0")], &[("ip", "11.2.2.4")], perms::READ, false),
            (&[(31, "ip", "fd00::/8")], &[("ip", "fd12:0:0:0:0:0:0:1")], perms::READ, true),
            (&[(31, "ip", "fd00::/9")], &[("ip", "fdff:0:0:0:0:0:0:1")], perms::READ, false),
            (&[(31, "ip", "::1")], &[("ip", "0:0:0:0:0:0:0:1")], perms::READ, true),
            (&[(31, "ip", "nonsense")], &[("ip", "0:0:0:0:0:0:0:1")], perms::READ, false),
        ];
        for (entries, ids, perm, want) in cases {
            let bytes = list(entries);
            assert_eq!(allows(fixed(&bytes), *perm, &who(ids)), *want, "{entries:?} {ids:?} {perm}");
        }
        let null = (-1_i32).to_be_bytes();
        assert!(allows(fixed(&null), perms::WRITE, &who(&[])));
    }

    #[test]
    fn lists_are_fixed_up_as_apache_does() {
        let me = &[("ip", "10.0.0.1"), ("digest", "u:h"), ("super", ""), ("digest", "v:k")];
        // (sent, identity, stored)
        type Entries<'a> = &'a [(i32, &'a str, &'a str)];
        type Case<'a> = (Entries<'a>, &'a [(&'a str, &'a str)], Option<Entries<'a>>);
        let cases: &[Case<'_>] = &[
            (&[(31, "world", "anyone")], &[], Some(&[(31, "world", "anyone")])),
            (&[], &[], None),
            (&[(31, "world", "foo")], &[], None),
            (&[(31, "auth", "")], &[], None),
            (&[(31, "auth", "")], &[("ip", "10.0.0.1")], None),
            (&[(3, "auth", "whoever")], me, Some(&[(3, "digest", "u:h"), (3, "digest", "v:k")])),
            (
                &[(1, "world", "anyone"), (3, "auth", ""), (1, "world", "anyone")],
                me,
                Some(&[(1, "world", "anyone"), (3, "digest", "u:h"), (3, "digest", "v:k")]),
            ),
            // Same name, other permissions: not a duplicate.
            (
                &[(1, "world", "anyone"), (2, "world", "anyone")],
                &[],
                Some(&[(1, "world", "anyone"), (2, "world", "anyone")]),
            ),
            // Duplicates that arise from expansion stay, as upstream.
            (
                &[(3, "digest", "u:h"), (3, "auth", "")],
                &[("digest", "u:h")],
                Some(&[(3, "digest", "u:h"), (3, "digest", "u:h")]),
            ),
            (&[(64, "world", "anyone")], &[], Some(&[(64, "world", "anyone")])),
            (&[(31, "super", "")], me, None),
            (&[(31, "sasl", "u")], me, None),
            (&[(31, "nosuch", "u")], me, None),
            (&[(31, "digest", "u")], &[], None),
            (&[(31, "digest", "u:h:")], &[], Some(&[(31, "digest", "u:h:")])),
            (&[(31, "digest", "u:h:x")], &[], None),
            (&[(31, "digest", "u:")], &[], None),
            (&[(31, "digest", ":h")], &[], Some(&[(31, "digest", ":h")])),
            (&[(31, "digest", ":")], &[], None),
            (&[(31, "digest", "")], &[], None),
            (&[(31, "ip", "1.2.3.4/32")], &[], Some(&[(31, "ip", "1.2.3.4/32")])),
            (&[(31, "ip", "1.2.3.4/33")], &[], None),
            (&[(31, "ip", "1.2.3.4/-1")], &[], None),
            (&[(31, "ip", "1.2.3.4/")], &[], None),
            (&[(31, "ip", "1.2.3")], &[], None),
            (&[(31, "ip", "1.2.3.256")], &[], None),
            (&[(31, "ip", "1.2.3.4.5")], &[], None),
            (&[(31, "ip", "fe80::1/128")], &[], Some(&[(31, "ip", "fe80::1/128")])),
            (&[(31, "ip", "fe80::1/129")], &[], None),
            (&[(31, "ip", "1:2:3:4:5:6:7:8")], &[], Some(&[(31, "ip", "1:2:3:4:5:6:7:8")])),
            (&[(31, "ip", "1:2:3:4:5:6:7::")], &[], Some(&[(31, "ip", "1:2:3:4:5:6:7::")])),
            (&[(31, "ip", "1:2:3:4:5:6:7:8::")], &[], None),
            (&[(31, "ip", "1::2::3")], &[], None),
            (&[(31, "ip", ":::")], &[], None),
            (&[(31, "ip", "12345::")], &[], None),
            (&[(31, "ip", "::ffff:1.2.3.4")], &[], None),
            (&[(31, "ip", "localhost")], &[], None),
        ];
        for (sent, ids, want) in cases {
            let bytes = list(sent);
            let got = fix_up(fixed(&bytes), &who(ids), &Schemes::standard());
            assert_eq!(got.ok().map(Cow::into_owned), want.map(list), "{sent:?}");
        }
        let bytes = list(&[(1, "ip", "10.0.0.0/8")]);
        assert!(matches!(fix_up(fixed(&bytes), &who(&[]), &Schemes::standard()), Ok(Cow::Borrowed(_))));
        let off = Schemes { digest: None };
        let bytes = list(&[(1, "digest", "u:h")]);
        assert_eq!(fix_up(fixed(&bytes), &who(me), &off), Err(InvalidAcl));
        let bytes = list(&[(1, "auth", "")]);
        assert_eq!(fix_up(fixed(&bytes), &who(me), &off), Err(InvalidAcl));
    }

    #[test]
    fn null_names_are_invalid() {
        for (scheme, id) in [(None, Some("a")), (Some("world"), None), (Some("digest"), None)] {
            let mut bytes = Vec::new();
            bytes.put_count(1);
            bytes.put_i32(31);
            bytes.put_buffer(scheme.map(str::as_bytes));
            bytes.put_buffer(id.map(str::as_bytes));
            assert_eq!(fix_up(fixed(&bytes), &who(&[]), &Schemes::standard()), Err(InvalidAcl));
        }
        let null = (-1_i32).to_be_bytes();
        assert_eq!(fix_up(fixed(&null), &who(&[]), &Schemes::standard()), Err(InvalidAcl));
    }

    #[test]
    fn credentials_become_ids() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let schemes = Schemes::standard();
        // The value that Apache's documentation gives for this credential.
        let id = Id::new("digest", "super:xQJmxLMiHGwaqBvst5y6rkB6HQs=");
        assert_eq!(authenticate("digest", b"super:admin", here, &schemes), Ok(vec![id.clone()]));
        let with_super = Schemes {
            digest: Some(DigestScheme {
                super_digest: Some(SuperDigest::new("super:xQJmxLMiHGwaqBvst5y6rkB6HQs=")),
                ..Default::default()
            }),
        };
        let ids = authenticate("digest", b"super:admin", here, &with_super).unwrap();
        assert_eq!(ids, [Id::new("super", ""), id]);
        assert!(Identity::new(ids).is_super());
        let ids = authenticate("digest", b"super:wrong", here, &with_super).unwrap();
        assert!(!Identity::new(ids).is_super());
        // No colon: the whole text is the user.
        let ids = authenticate("digest", b"abc", here, &schemes).unwrap();
        assert_eq!(ids, [Id::new("digest", "abc:qZk+NkcGgWq6PiVxeFDCbJzQ2J0=")]);
        let sha256 = Schemes {
            digest: Some(DigestScheme {
                algorithm: DigestAlgorithm::from_java_name("SHA-256").unwrap(),
                super_digest: None,
            }),
        };
        let ids = authenticate("digest", b"abc", here, &sha256).unwrap();
        assert_eq!(ids[0].id, "abc:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
        for scheme in ["sasl", "world", "super", "auth", "x509", ""] {
            assert_eq!(authenticate(scheme, b"a:b", here, &schemes), Err(AuthFailed), "{scheme}");
        }
        assert_eq!(authenticate("digest", b"a:b", here, &Schemes { digest: None }), Err(AuthFailed));
        assert_eq!(authenticate("ip", b"", here, &schemes), Ok(vec![Id::new("ip", "127.0.0.1")]));
        assert!(DigestAlgorithm::from_java_name("MD5").is_none());
        assert!(!format!("{with_super:?}").contains("xQJm"), "the super digest must not be shown");
    }

    #[test]
    fn addresses_are_spelled_as_java_does() {
        let id = |text: &str| ip_id(text.parse().unwrap()).id;
        assert_eq!(id("::1"), "0:0:0:0:0:0:0:1");
        assert_eq!(id("fe80::a:0:b"), "fe80:0:0:0:0:a:0:b");
        assert_eq!(id("::ffff:10.0.0.1"), "10.0.0.1");
    }

    #[test]
    fn identities_are_sets() {
        let a = Arc::new(Identity::of_address(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let b = a.with(Id::new("digest", "u:h"));
        assert_eq!(b.ids().len(), 2);
        assert!(Arc::ptr_eq(&b, &b.with(Id::new("digest", "u:h"))));
        assert!(!b.is_super() && b.with(Id::new("super", "")).is_super());
        let many = |n: usize| (0..n).map(|i| Id::new("digest", &format!("u{i}:h"))).collect();
        assert_eq!(a.gain(many(IDS_MAX - 1)).unwrap().ids().len(), IDS_MAX);
        assert_eq!(a.gain(many(IDS_MAX)), Err(AuthFailed));
        assert_eq!(a.gain(vec![Id::new("digest", &"x".repeat(IDS_BYTES_MAX))]), Err(AuthFailed));
        // As many `auth` entries as a frame holds, for as many ids as a connection holds.
        let all = a.gain(many(IDS_MAX - 1)).unwrap();
        let entries: Vec<_> = (0..60_000).map(|perms| (perms, "auth", "")).collect();
        assert_eq!(fix_up(fixed(&list(&entries)), &all, &Schemes::standard()), Err(InvalidAcl));
        assert_eq!(user_name(&b.ids()[1]), "u");
        assert_eq!(user_name(&b.ids()[0]), "127.0.0.1");
    }

    #[test]
    fn readers_without_admin_see_no_hashes() {
        let bytes = list(&[(31, "digest", "u:hash:more"), (1, "world", "anyone"), (2, "digest", "odd")]);
        let shown = masked(fixed(&bytes));
        assert_eq!(*shown, list(&[(31, "digest", "u:x"), (1, "world", "anyone"), (2, "digest", "odd")]));
        let bytes = list(&[(31, "ip", "1.2.3.4")]);
        assert!(matches!(masked(fixed(&bytes)), Cow::Borrowed(_)));
    }
}
