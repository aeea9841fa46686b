//! Words for a shell.
//!
//! Our own processes pass arguments as lists and need none of this. It serves text that a shell
//! must read: a command put together for a session, an environment to be restored. What comes out
//! is right in every POSIX shell, in `wordexp`, and in any locale, because a quoted word contains
//! nothing that a shell looks at, and an unquoted one only letters that mean themselves.

use std::error::Error;
use std::fmt;

/// No shell can be given a NUL byte: words end there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NulByte {
    /// Which word it is in, from 0.
    pub argument: usize,
    /// Where it is in the word, from 0.
    pub position: usize,
}

impl fmt::Display for NulByte {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { argument, position } = self;
        write!(formatter, "argument {argument} has a NUL byte at position {position}")
    }
}

impl Error for NulByte {}

/// Quotes one word, so that a shell reads exactly these bytes.
///
/// The result is a word of its own: set it off by blanks from what stands beside it.
///
/// # Errors
///
/// [`NulByte`] if the word contains one. A shell would drop it, or all that follows.
pub fn quote(word: &[u8]) -> Result<Vec<u8>, NulByte> {
    let mut text = Vec::with_capacity(word.len() + 2);
    append(&mut text, 0, word)?;
    Ok(text)
}

/// Quotes a list of words and sets blanks between them: a simple command.
///
/// # Errors
///
/// [`NulByte`] for the first word that contains one.
pub fn join<Word: AsRef<[u8]>>(argv: impl IntoIterator<Item = Word>) -> Result<Vec<u8>, NulByte> {
    let mut text = Vec::new();
    for (argument, word) in argv.into_iter().enumerate() {
        if argument > 0 {
            text.push(b' ');
        }
        append(&mut text, argument, word.as_ref())?;
    }
    Ok(text)
}

/// What a shell takes for grammar where it expects a command, though each letter is plain.
const RESERVED: &[&[u8]] = &[
    b"case",
    b"coproc",
    b"do",
    b"done",
    b"elif",
    b"else",
    b"esac",
    b"fi",
    b"for",
    b"function",
    b"if",
    b"in",
    b"namespace",
    b"select",
    b"then",
    b"time",
    b"until",
    b"while",
];

fn append(text: &mut Vec<u8>, argument: usize, word: &[u8]) -> Result<(), NulByte> {
    if let Some(position) = word.iter().position(|&byte| byte == 0) {
        return Err(NulByte { argument, position });
    }
    if word.is_empty() {
        text.extend_from_slice(b"''");
        return Ok(());
    }
    if word.iter().copied().all(is_plain) && !RESERVED.contains(&word) {
        text.extend_from_slice(word);
        return Ok(());
    }
    // No empty quotes beside other text: in front of it, glibc's wordexp takes them for a word.
    for (index, run) in word.split(|&byte| byte == b'\'').enumerate() {
        if index > 0 {
            text.extend_from_slice(br"\'");
        }
        if !run.is_empty() {
            text.push(b'\'');
            text.extend_from_slice(run);
            text.push(b'\'');
        }
    }
    Ok(())
}

/// Letters that mean themselves anywhere in a word. `=` is none: in front of a command it assigns.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-./:,+@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::io::ErrorKind;
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    fn quoted(word: &[u8]) -> Vec<u8> {
        quote(word).expect("no NUL in it")
    }

    #[test]
    fn a_plain_word_stays_as_it_is() {
        for word in ["ls", "/usr/bin/python3.11", "--color", "a_b-c.d:e,f+g@h", "0"] {
            assert_eq!(quoted(word.as_bytes()), word.as_bytes());
        }
    }

    #[test]
    fn anything_else_is_put_in_single_quotes() {
        for (word, expected) in [
            ("", "''"),
            (" ", "' '"),
            ("$(reboot)", "'$(reboot)'"),
            ("a=b", "'a=b'"),
            ("~", "'~'"),
            ("%1", "'%1'"),
            ("line\nbreak", "'line\nbreak'"),
            ("naïve", "'naïve'"),
            ("it's", r"'it'\''s'"),
            ("'", r"\'"),
            ("''a'", r"\'\''a'\'"),
            (r"\", r"'\'"),
        ] {
            assert_eq!(String::from_utf8_lossy(&quoted(word.as_bytes())), expected);
        }
    }

    #[test]
    fn a_reserved_word_is_quoted_into_a_name() {
        assert_eq!(quoted(b"if"), b"'if'");
        assert_eq!(quoted(b"iffy"), b"iffy");
    }

    #[test]
    fn no_word_begins_with_empty_quotes() {
        for word in hard_words().iter().filter(|word| !word.is_empty()) {
            assert!(!quoted(word).starts_with(b"''"), "{word:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_pass_unchanged() {
        assert_eq!(quoted(b"\xff\x80'"), b"'\xff\x80'\\'");
    }

    #[test]
    fn a_nul_byte_is_refused_and_named() {
        assert_eq!(quote(b"ab\0c"), Err(NulByte { argument: 0, position: 2 }));
        let error = join([&b"echo"[..], b"\0"]).expect_err("a NUL");
        assert_eq!(error, NulByte { argument: 1, position: 0 });
        assert_eq!(error.to_string(), "argument 1 has a NUL byte at position 0");
    }

    #[test]
    fn a_list_is_joined_by_blanks() {
        assert_eq!(join(["echo", "", "a b", "c"]), Ok(b"echo '' 'a b' c".to_vec()));
        assert_eq!(join::<&str>([]), Ok(Vec::new()));
    }

    /// Words that have broken quoting somewhere: every byte alone, beside a quote, before a
    /// backslash (which ends a character in some Asian encodings), and all of them together.
    fn hard_words() -> Vec<Vec<u8>> {
        let mut words: Vec<Vec<u8>> = RESERVED.iter().map(|word| word.to_vec()).collect();
        for byte in 1..=u8::MAX {
            words.push(vec![byte]);
            words.push(vec![byte, b'\'']);
            words.push(vec![b'\'', byte, b'\\']);
        }
        words.push((1..=u8::MAX).collect());
        words.push((1..=u8::MAX).rev().collect());
        words.push(Vec::new());
        words
    }

    /// Has `shell` print the words again, each ended by a NUL.
    fn read_by(shell: &str, locale: &str) -> Option<Vec<u8>> {
        let mut script = b"printf '%s\\0' ".to_vec();
        script.extend(join(hard_words()).expect("no NUL in them"));
        let run = Command::new(shell)
            .args([OsStr::new("-c"), OsStr::from_bytes(&script)])
            .env("LC_ALL", locale)
            .output();
        match run {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            run => Some(run.expect("the shell runs").stdout),
        }
    }

    #[test]
    fn shells_read_back_what_was_quoted() {
        let expected: Vec<u8> =
            hard_words().into_iter().flat_map(|word| [word, vec![0]]).flatten().collect();
        for shell in ["sh", "dash", "bash", "zsh"] {
            for locale in ["C", "C.UTF-8", "ja_JP.SJIS", "zh_CN.GBK"] {
                if let Some(printed) = read_by(shell, locale) {
                    assert!(printed == expected, "{shell} in {locale} read something else");
                }
            }
        }
    }
}
