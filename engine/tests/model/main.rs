//! The engine against a plain model of the semantics: rules one by one ([`rules`]), and random requests with
//! several prepared before the first is applied ([`random`]).

mod plain;
mod random;
mod rules;
mod server;
