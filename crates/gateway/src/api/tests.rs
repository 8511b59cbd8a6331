//! Tests of the document: what it says is what is read.

use std::path::Path;

use expect_test::expect_file;
use serde_json::Value;

use super::*;

fn parsed() -> Value {
    serde_json::from_str(&document()).unwrap()
}

/// `UPDATE_EXPECT=1 cargo test -p fanlight` writes it anew.
#[test]
fn the_document_is_the_one_that_is_shipped() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    expect_file![path].assert_eq(&document());
}

#[test]
fn every_operation_says_how_it_fails_and_has_a_name_of_its_own() {
    let document = parsed();
    let mut names = std::collections::HashSet::new();
    let mut unused: std::collections::HashSet<_> =
        refusals::ALL.iter().map(|(code, ..)| (*code).to_owned()).collect();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name}");
            let responses = operation["responses"].as_object().unwrap();
            let [unauthorized, forbidden, limited] =
                ["401", "403", "429"].map(|status| responses[status].is_object());
            assert!(unauthorized && forbidden && limited, "{method} {path}");
            for (status, response) in responses.iter().filter(|(status, _)| *status != "200") {
                let content = &response["content"]["application/problem+json"];
                assert_eq!(content["schema"]["$ref"], "#/components/schemas/Problem");
                for (code, example) in content["examples"].as_object().unwrap() {
                    assert_eq!(example["$ref"], format!("#/components/examples/{code}"));
                    let example = &document["components"]["examples"][code]["value"];
                    assert_eq!(example["status"].to_string(), *status, "{method} {path} {code}");
                    unused.remove(code);
                }
            }
        }
    }
    // What no operation answers with, the document says as a whole.
    let whole = document["info"]["description"].as_str().unwrap();
    unused.retain(|code| !whole.contains(&format!("`{code}`")));
    assert_eq!(unused, std::collections::HashSet::new());
    assert_eq!(document["openapi"], "3.1.0");
}

#[test]
fn the_guide_names_every_code_with_its_status() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/server-api.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    for (code, status, meaning) in refusals::ALL {
        let is_told = |line: &str| {
            let mut cells = line.split('|').skip(1);
            let is_of = cells.next().is_some_and(|all| all.contains(&status.to_string()));
            is_of && cells.next().is_some_and(|codes| codes.contains(&format!("`{code}`")))
        };
        assert!(guide.lines().any(is_told), "{status} {code}");
        assert!(!meaning.is_empty());
    }
}

#[test]
fn a_message_has_the_fields_that_the_protocol_reads() {
    let document = parsed();
    let schema = &document["components"]["schemas"]["Message"]["properties"];
    let fields: Vec<_> = schema.as_object().unwrap().keys().cloned().collect();
    let example = |field: &String| match field.as_str() {
        "headers" => r#"{"a":"b"}"#.to_owned(),
        "data" => "\"aGk=\"".to_owned(),
        "encoding" => "\"base64\"".to_owned(),
        other => format!("\"{other}\""),
    };
    let pairs: Vec<_> =
        fields.iter().map(|field| format!("\"{field}\":{}", example(field))).collect();
    let text = format!("{{{}}}", pairs.join(","));
    fanlight_proto::native::parse_send(&text).unwrap();
    let unknown = text.replace("\"key\"", "\"kee\"");
    assert!(fanlight_proto::native::parse_send(&unknown).is_err());
}

#[test]
fn a_body_that_is_not_as_it_must_be_is_told_where() {
    #[derive(Debug, serde::Deserialize)]
    struct Asked {
        #[expect(dead_code, reason = "it is only read")]
        users: Vec<String>,
    }
    for (body, expected) in [
        (&br#"{"users":[1]}"#[..], "users[0]: invalid type: integer `1`"),
        (br#"{"users":[]} x"#, "not one JSON value"),
        (b"", "EOF"),
    ] {
        let problem = parse::<Asked>(body).unwrap_err();
        assert!(problem.detail().contains(expected), "{}", problem.detail());
        assert_eq!(problem.code(), "bad_body");
    }
}
