//! JSON in the order in which it was put together, printed as Apache's admin server prints it.

use std::fmt::Write;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A fraction; not finite counts as 0.
    Real(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// Keys and values, in order.
    Map(Vec<(String, Json)>),
}

impl From<bool> for Json {
    fn from(v: bool) -> Json {
        Json::Bool(v)
    }
}

impl From<i64> for Json {
    fn from(v: i64) -> Json {
        Json::Int(v)
    }
}

impl From<i32> for Json {
    fn from(v: i32) -> Json {
        Json::Int(i64::from(v))
    }
}

impl From<u32> for Json {
    fn from(v: u32) -> Json {
        Json::Int(i64::from(v))
    }
}

impl From<u64> for Json {
    fn from(v: u64) -> Json {
        Json::Int(i64::try_from(v).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Json {
    fn from(v: usize) -> Json {
        Json::from(v as u64)
    }
}

impl From<f64> for Json {
    fn from(v: f64) -> Json {
        Json::Real(v)
    }
}

impl From<&str> for Json {
    fn from(v: &str) -> Json {
        Json::Text(v.to_owned())
    }
}

impl From<String> for Json {
    fn from(v: String) -> Json {
        Json::Text(v)
    }
}

impl<T: Into<Json>> From<Vec<T>> for Json {
    fn from(v: Vec<T>) -> Json {
        Json::List(v.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(v: Option<T>) -> Json {
        v.map_or(Json::Null, Into::into)
    }
}

/// A map out of pairs.
#[macro_export]
macro_rules! json {
    ({ $($key:literal : $value:expr),* $(,)? }) => {
        $crate::admin::json::Json::Map(vec![$(($key.to_string(), $crate::admin::json::Json::from($value))),*])
    };
}

impl Json {
    /// An empty map.
    pub fn map() -> Json {
        Json::Map(Vec::new())
    }

    /// Adds a key at the end, or changes its value where it stands.
    ///
    /// # Panics
    /// When this is no map.
    pub fn put(&mut self, key: &str, value: impl Into<Json>) {
        let Json::Map(pairs) = self else { panic!("keys are put into maps") };
        match pairs.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value.into(),
            None => pairs.push((key.to_owned(), value.into())),
        }
    }

    /// The value of a key of a map.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Map(pairs) => pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Without spaces, for programs.
    pub fn compact(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, None);
        out
    }

    /// Indented as Jackson does it: maps by line, lists in line.
    pub fn pretty(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, Some(0));
        out
    }

    fn write(&self, out: &mut String, depth: Option<usize>) {
        let deeper = depth.map(|d| d + 1);
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(v) => out.push_str(if *v { "true" } else { "false" }),
            Json::Int(v) => write!(out, "{v}").expect("a String takes everything"),
            Json::Real(v) => {
                let v = if v.is_finite() { *v } else { 0.0 };
                write!(out, "{v:?}").expect("a String takes everything");
            }
            Json::Text(v) => quote(v, out),
            Json::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(match (i, depth) {
                        (0, None) => "",
                        (0, Some(_)) => " ",
                        (_, None) => ",",
                        (_, Some(_)) => ", ",
                    });
                    item.write(out, depth);
                }
                out.push_str(if depth.is_some() { " ]" } else { "]" });
            }
            Json::Map(pairs) => {
                let line = |out: &mut String, depth: Option<usize>| {
                    if let Some(d) = depth {
                        out.push('\n');
                        out.extend(std::iter::repeat_n("  ", d));
                    }
                };
                out.push('{');
                for (i, (key, value)) in pairs.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    line(out, deeper);
                    quote(key, out);
                    out.push_str(if depth.is_some() { " : " } else { ":" });
                    value.write(out, deeper);
                }
                if pairs.is_empty() && depth.is_some() {
                    out.push(' ');
                } else {
                    line(out, depth);
                }
                out.push('}');
            }
        }
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || ('\u{7f}'..='\u{9f}').contains(&c) => {
                write!(out, "\\u{:04x}", c as u32).expect("a String takes everything");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_jackson_does() {
        let mut j = json!({ "client_port": 2181_i64, "list": vec![1_i64, 2], "none": Json::Null });
        j.put("empty", Json::map());
        j.put("in", Json::List(vec![json!({ "a\"b": "c\nd\u{1}" })]));
        j.put("client_port", 1_i64);
        assert_eq!(
            j.pretty(),
            "{\n  \"client_port\" : 1,\n  \"list\" : [ 1, 2 ],\n  \"none\" : null,\n  \"empty\" : { },\n  \"in\" : [ \
             {\n    \"a\\\"b\" : \"c\\nd\\u0001\"\n  } ]\n}"
        );
        assert_eq!(json!({ "x": f64::NAN, "y": 1.5 }).compact(), "{\"x\":0.0,\"y\":1.5}");
        let parsed: serde_json::Value = serde_json::from_str(&j.pretty()).unwrap();
        assert_eq!(parsed["in"][0]["a\"b"], "c\nd\u{1}");
    }
}
