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
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name}");
            let problem = &operation["responses"]["4XX"]["content"];
            let schema = &problem["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem", "{method} {path}");
            assert!(operation["responses"]["503"].is_object(), "{method} {path}");
        }
    }
    assert_eq!(document["openapi"], "3.1.0");
}

#[test]
fn a_message_has_the_fields_that_the_protocol_reads() {
    let document = parsed();
    let schema = &document["components"]["schemas"]["Message"]["properties"];
    let fields: Vec<_> = schema.as_object().unwrap().keys().cloned().collect();
    let example = |field: &String| match field.as_str() {
        "headers" => r#"{"a":"b"}"#.to_owned(),
        "data" => "\"aGk=\"".to_owned(),
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
