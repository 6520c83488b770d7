//! Result references (RFC 8620 section 3.7): `"#ids": {"resultOf", "name", "path"}` takes an argument from an earlier
//! response of the same request.

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::call::{Done, Fault};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Reference {
    result_of: String,
    name: String,
    path: String,
}

/// True where the arguments may hold a reference: a cheap look that errs towards yes.
pub(super) fn are_in(arguments: &RawValue) -> bool {
    memchr::memmem::find(arguments.get().as_bytes(), b"resultOf").is_some()
}

/// The arguments with every reference replaced by what it names.
pub(super) fn resolve(arguments: &RawValue, done: &[Done]) -> Result<Value, Fault> {
    let given: Map<String, Value> =
        serde_json::from_str(arguments.get()).map_err(Fault::arguments)?;
    let mut resolved = Map::with_capacity(given.len());
    for (key, value) in &given {
        let Some(name) = key.strip_prefix('#') else {
            resolved.insert(key.clone(), value.clone());
            continue;
        };
        if given.contains_key(name) {
            return Err(Fault::arguments(format!("both {name} and {key}")));
        }
        let wrong = |why: &str| Fault::Method("invalidResultReference", format!("{key}: {why}"));
        let reference = Reference::deserialize(value).map_err(|e| wrong(&e.to_string()))?;
        let earlier = done
            .iter()
            .find(|done| done.id == reference.result_of && done.name == reference.name)
            .ok_or_else(|| wrong("no such response"))?;
        let response: Value = serde_json::from_str(earlier.arguments.get())
            .map_err(|_| wrong("the response is not JSON"))?;
        let found = pointed(&response, &reference.path).ok_or_else(|| wrong("no such path"))?;
        resolved.insert(name.to_owned(), found);
    }
    Ok(Value::Object(resolved))
}

/// A JSON pointer (RFC 6901) with `*`, which maps the rest of the path over a list and flattens one level.
fn pointed(value: &Value, path: &str) -> Option<Value> {
    let Some(path) = path.strip_prefix('/') else {
        return path.is_empty().then(|| value.clone());
    };
    let (token, rest) = match path.find('/') {
        Some(end) => path.split_at(end),
        None => (path, ""),
    };
    match value {
        Value::Array(items) if token == "*" => {
            let mut all = Vec::new();
            for item in items {
                match pointed(item, rest)? {
                    Value::Array(inner) => all.extend(inner),
                    found => all.push(found),
                }
            }
            Some(Value::Array(all))
        }
        Value::Array(items) => pointed(items.get(token.parse::<usize>().ok()?)?, rest),
        Value::Object(members) => {
            let name = token.replace("~1", "/").replace("~0", "~");
            pointed(members.get(&name)?, rest)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_star_maps_and_flattens() {
        let response =
            json!({"list": [{"ids": ["a", "b"]}, {"ids": ["c"]}, {"ids": []}], "n~/": 1});
        assert_eq!(
            pointed(&response, "/list/*/ids"),
            Some(json!(["a", "b", "c"]))
        );
        assert_eq!(pointed(&response, "/list/1/ids/0"), Some(json!("c")));
        assert_eq!(pointed(&response, "/n~0~1"), Some(json!(1)));
        assert_eq!(pointed(&response, "/list/*/none"), None);
        assert_eq!(pointed(&response, "list"), None);
    }

    #[test]
    fn a_reference_takes_the_argument_from_the_named_response() {
        let done = [Done {
            name: "Email/query".into(),
            arguments: RawValue::from_string(r#"{"ids":["M1"]}"#.into()).unwrap(),
            id: "q".into(),
        }];
        let resolved = |arguments: &str| {
            let raw = RawValue::from_string(arguments.into()).unwrap();
            resolve(&raw, &done)
        };
        let good =
            r##"{"accountId":"a","#ids":{"resultOf":"q","name":"Email/query","path":"/ids"}}"##;
        assert_eq!(
            resolved(good).unwrap(),
            json!({"accountId": "a", "ids": ["M1"]})
        );
        for bad in [
            r##"{"#ids":{"resultOf":"x","name":"Email/query","path":"/ids"}}"##,
            r##"{"#ids":{"resultOf":"q","name":"Email/get","path":"/ids"}}"##,
            r##"{"#ids":{"resultOf":"q","name":"Email/query","path":"/list"}}"##,
            r##"{"#ids":"resultOf"}"##,
        ] {
            assert!(
                matches!(
                    resolved(bad),
                    Err(Fault::Method("invalidResultReference", _))
                ),
                "{bad}"
            );
        }
    }
}
