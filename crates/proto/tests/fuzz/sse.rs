//! No data gets out of its event, and no text makes the cursor's parser panic.

use fanlight_proto::Cursor;
use fanlight_proto::sse::{self, Field};

const SMOKE_ITERATIONS: usize = 1000;

#[test]
fn fuzz_sse_writer() {
    bolero::check!()
        .with_iterations(SMOKE_ITERATIONS)
        .with_type::<(String, String, Vec<u8>)>()
        .for_each(|(id, name, data)| {
            let (id, name) = (Field::new(id).ok(), Field::new(name).ok());
            let mut out = Vec::new();
            sse::event(&mut out, id, name, data);
            let lines = out.strip_suffix(b"\n\n").expect("an event ends with an empty line");
            let mut lines = lines.split(|byte| *byte == b'\n');
            for prefix in [id.map(|_| "id: "), name.map(|_| "event: ")].into_iter().flatten() {
                assert!(lines.next().is_some_and(|line| line.starts_with(prefix.as_bytes())));
            }
            assert!(lines.all(|line| line.starts_with(b"data: ") && !line.contains(&b'\r')));
        });
}

#[test]
fn fuzz_cursor() {
    bolero::check!().with_iterations(SMOKE_ITERATIONS).for_each(|input: &[u8]| {
        let alphabet = b"0123456789abcdef:,-";
        let bytes = input.iter().map(|byte| alphabet[usize::from(*byte) % alphabet.len()]);
        let likely = String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned();
        for text in [String::from_utf8_lossy(input).into_owned(), likely] {
            match text.parse::<Cursor>() {
                Ok(cursor) => assert_eq!(cursor.to_string().parse(), Ok(cursor)),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    });
}
