//! Invariant tested: a list of words without NUL bytes, quoted and joined, is read back by a small
//! POSIX reader as the same list; a NUL byte is refused and its place is named.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rust_core::quote::{join, quote};

/// Splits a line into words as XCU 2.2 says, and panics where a shell would do more than read: at
/// an operator, an expansion, a pattern, an assignment, or the end of the line within quotes.
fn read(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' => words.extend(word.take()),
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next().expect("the quotes are closed") {
                        b'\'' => break,
                        quoted => word.push(quoted),
                    }
                }
            }
            b'\\' => match bytes.next().expect("something is escaped") {
                b'\n' => panic!("a continued line"),
                escaped => word.get_or_insert_default().push(escaped),
            },
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'_'
            | b'@'
            | b'+'
            | b':'
            | b','
            | b'.'
            | b'/'
            | b'-' => word.get_or_insert_default().push(byte),
            special => panic!("{special:#x} stands outside of quotes"),
        }
    }
    words.extend(word);
    words
}

fuzz_target!(|data: &[u8]| {
    // One separator that is no NUL gives lists; the whole input gives one word, NUL included.
    match (quote(data), data.iter().position(|&byte| byte == 0)) {
        (Ok(line), None) => assert_eq!(read(&line), [data]),
        (Err(error), Some(position)) => assert_eq!((error.argument, error.position), (0, position)),
        (outcome, position) => panic!("{outcome:?} for a NUL at {position:?}"),
    }
    let words: Vec<&[u8]> = data.split(|&byte| byte == b'|').collect();
    match join(&words) {
        Ok(line) => assert_eq!(read(&line), words),
        Err(error) => assert_eq!(words[error.argument][error.position], 0),
    }
});
