//! Shell text that is one program and its words, and nothing else to any shell.
//!
//! What a shell would do with such text is known without one: it takes the quotes away and executes
//! the program. Every character outside of quotes that means something to a shell, or might, makes
//! the text not plain. Whether the program's name is a builtin, a reserved word or whatever else to a
//! certain shell, the caller has to know.

/// Longer text is left to the shell; the kernel takes no longer argument.
const LONGEST_BYTES: usize = 128 * 1024;

/// A word of plain text.
#[derive(Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// As it was typed.
    pub typed: &'a [u8],
    /// Without its quotes: what the program is given.
    pub bytes: Vec<u8>,
}

/// The program and its arguments; `None` if `text` is not plain.
pub fn words(text: &[u8]) -> Option<Vec<Word<'_>>> {
    if text.len() > LONGEST_BYTES {
        return None;
    }
    let mut rest = after_blanks(text);
    let program = run_of(rest, is_in_names);
    if program.is_empty() || b"+-".contains(&program[0]) {
        return None;
    }
    let mut words = vec![Word { typed: program, bytes: program.to_vec() }];
    rest = &rest[program.len()..];
    loop {
        let next = after_blanks(rest);
        if next.iter().all(|byte| b" \t\n".contains(byte)) {
            return Some(words);
        }
        if next.len() == rest.len() {
            return None; // something that is no blank follows a word
        }
        let word = word(next)?;
        rest = &next[word.typed.len()..];
        words.push(word);
    }
}

/// The word that `text` begins with, up to a character that stands in none.
fn word(text: &[u8]) -> Option<Word<'_>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(&first) = rest.first() {
        let piece = match first {
            b'\'' | b'"' => {
                let quoted = &rest[1..];
                let inside = run_of(quoted, |byte| byte != first);
                if inside.len() == quoted.len()
                    || !inside.iter().all(|&byte| is_quoted(byte, first))
                {
                    return None;
                }
                bytes.extend_from_slice(inside);
                inside.len() + 2
            }
            _ => {
                let plain = run_of(rest, is_in_words);
                bytes.extend_from_slice(plain);
                plain.len()
            }
        };
        if piece == 0 {
            break;
        }
        rest = &rest[piece..];
    }
    let typed = &text[..text.len() - rest.len()];
    (!typed.is_empty()).then_some(Word { typed, bytes })
}

fn is_in_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_./+-".contains(&byte)
}

fn is_in_words(byte: u8) -> bool {
    is_in_names(byte) || b",:=@%".contains(&byte)
}

/// Whether `byte` means itself between two of `quote`. bash marks its own with 1 and 127 in there.
fn is_quoted(byte: u8, quote: u8) -> bool {
    !matches!(byte, 0 | 1 | 127) && (quote == b'\'' || !b"$`\\".contains(&byte))
}

/// What `text` begins with, as far as every byte belongs to it.
fn run_of(text: &[u8], belongs: impl Fn(u8) -> bool) -> &[u8] {
    let end = text.iter().position(|&byte| !belongs(byte)).unwrap_or(text.len());
    &text[..end]
}

/// `text` without the blanks that it begins with.
fn after_blanks(text: &[u8]) -> &[u8] {
    &text[run_of(text, |byte| matches!(byte, b' ' | b'\t')).len()..]
}

#[cfg(test)]
mod tests {
    use super::words;

    fn read(text: &str) -> Option<Vec<String>> {
        let words = words(text.as_bytes())?;
        let text = |word: &super::Word<'_>| String::from_utf8(word.bytes.clone()).expect("text");
        Some(words.iter().map(text).collect())
    }

    #[test]
    fn quotes_are_taken_away() {
        for (text, expected) in [
            ("/bin/true", &["/bin/true"][..]),
            (" \tls -la \n\n", &["ls", "-la"]),
            ("a 'b c'\"d\te\"=f '' \"\"", &["a", "b cd\te=f", "", ""]),
            ("python3 -c 'print(1)\nprint(2)'", &["python3", "-c", "print(1)\nprint(2)"]),
            ("a '$x' '`\\' \"it's\"", &["a", "$x", "`\\", "it's"]),
        ] {
            let expected = expected.iter().map(ToString::to_string).collect();
            assert_eq!(read(text), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn a_word_is_kept_as_it_was_typed() {
        let read = words(b"a  'b'\"c\"\n").expect("plain");
        let typed: Vec<_> = read.iter().map(|word| word.typed).collect();
        assert_eq!(typed, [&b"a"[..], b"'b'\"c\""]);
    }

    #[test]
    fn whatever_else_means_something_is_not_plain() {
        for text in [
            "",
            " ",
            "\n",
            "\na",
            "-a",
            "+a",
            "'a'",
            "a'b'",
            "A=1 b",
            "=a",
            "a; b",
            "a\nb",
            "a &",
            "a|b",
            "a >b",
            "a <b",
            "a $b",
            "a \"$b\"",
            "a \"\\b\"",
            "a `b`",
            "a *",
            "a ?",
            "a [b]",
            "a {b,c}",
            "a ~",
            "a !b",
            "a #b",
            "a \\b",
            "a 'b",
            "a \"b",
            "a (b)",
            "a ^b",
            "a\rb",
            "a '\u{1}'",
            "a '\u{7f}'",
            "\u{e4}",
            "a \u{e4}",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
        assert_eq!(words(&vec![b'a'; super::LONGEST_BYTES + 1]), None);
    }
}
