//! The page for people: one file, nothing from elsewhere, and a policy that lets nothing else run.

use super::Answer;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

const PAGE: &str = include_str!("page.html");

/// The page with its policy: its own script and style, by their hashes, and requests to where it came from.
pub fn answer() -> Answer {
    static POLICY: OnceLock<String> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        let hash = |tag: &str| {
            let inner = PAGE.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
            let (inner, _) = inner.expect("the page has one script and one style");
            BASE64_STANDARD.encode(Sha256::digest(inner.as_bytes()))
        };
        format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash("script"),
            hash("style")
        )
    });
    let mut answer = Answer::html(200, PAGE.to_owned());
    answer.headers.push(("content-security-policy", policy.clone()));
    answer
}
