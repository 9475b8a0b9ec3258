//! Pre-tokenizers: how a text is cut into the pieces inside which BPE merges.

use std::ops::Range;

use regex::Regex;

/// One row per family of `tokenizer.ggml.pre`.
pub(super) struct PreTokenizerRow {
    /// The names that a file may use.
    names: &'static [&'static str],
    /// Applied in turn, each to the pieces that the one before it made. What a regex matches is a piece, and so is what
    /// lies between two matches.
    regexes: &'static [&'static str],
    /// A piece that is a token as a whole is not merged.
    pub ignore_merges: bool,
    /// Texts begin with BOS unless the file says otherwise.
    pub add_bos: bool,
    /// Detokenizing drops spaces before punctuation.
    pub clean_spaces: bool,
    /// There is no BOS token unless the file names one.
    pub no_bos: bool,
}

const ROW: PreTokenizerRow = PreTokenizerRow {
    names: &[],
    regexes: &[],
    ignore_merges: false,
    add_bos: false,
    clean_spaces: true,
    no_bos: false,
};

// The regexes are llama.cpp's, but that `words_cased!` has set differences for its look-aheads. In all of them `\p{..}` is
// the category in Unicode 15.1, see `Splitter::new`.

/// The first regex of GPT-2 and its many followers.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DIGITS_3: &str = "[0-9][0-9][0-9]";
const CJK_WIDE: &str = r"[[一-龥\u{800}-一가-\u{D7FF}]--\s]+";

macro_rules! contractions {
    () => {
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}

macro_rules! llama3 {
    ($digits:literal) => {
        concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// Words of upper-case letters followed by lower-case ones. Only A-Z and a-z have a case here.
macro_rules! words_cased {
    ($suffix:expr, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]*[\p{L}--[A-Z]]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]+[\p{L}--[A-Z]]*",
            $suffix,
            r"|\p{N}",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// Letters that have a case, by deepseek-llm's list.
const CASED: &str = concat!(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ",
    r"\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}",
    r"\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}",
    r"\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}",
    r"\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}",
    r"\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}",
    r"\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}",
    r"\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}",
    r"\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}",
    r"\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}",
    r"\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+"
);

/// U+3000 is white space before it is punctuation, so the range that begins there in llama.cpp begins one later.
const PUNCT: &str = r"\s?[!-/:-~！-／：-～‘-‟\u{3001}\u{3002}]+";

const DEEPSEEK_V3: &str = concat!(
    r##"[!"\#$%\&'()*+,\-./:;<=>?@\[\\\]\^_`{|}\~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const QWEN35: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

const ROWS: &[PreTokenizerRow] = &[
    PreTokenizerRow { names: &["default"], regexes: &[r"[\p{P}\$\+<=>\^\~\|]+", GPT2, r"\p{N}+", DIGITS_3], ..ROW },
    PreTokenizerRow {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
        ],
        regexes: &[GPT2],
        ..ROW
    },
    PreTokenizerRow { names: &["trillion", "granite-docling"], regexes: &[GPT2], clean_spaces: false, ..ROW },
    PreTokenizerRow {
        names: &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        regexes: &[llama3!("{1,3}")],
        ignore_merges: true,
        add_bos: true,
        ..ROW
    },
    PreTokenizerRow { names: &["dbrx", "smaug-bpe"], regexes: &[llama3!("{1,3}")], ..ROW },
    PreTokenizerRow { names: &["chatglm-bpe"], regexes: &[llama3!("{1,3}")], no_bos: true, ..ROW },
    PreTokenizerRow {
        names: &["glm4", "glm5"],
        regexes: &[llama3!("{1,3}")],
        no_bos: true,
        ignore_merges: true,
        ..ROW
    },
    PreTokenizerRow {
        names: &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "solar-open", "grok-2"],
        regexes: &[llama3!("")],
        clean_spaces: false,
        ..ROW
    },
    PreTokenizerRow { names: &["megrez", "stablelm2"], regexes: &[llama3!("")], ..ROW },
    PreTokenizerRow { names: &["qwen35"], regexes: &[QWEN35], clean_spaces: false, ..ROW },
    PreTokenizerRow {
        names: &["starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"],
        regexes: &[r"\p{N}", GPT2],
        ..ROW
    },
    PreTokenizerRow { names: &["command-r", "smollm"], regexes: &[r"\p{N}", GPT2], clean_spaces: false, ..ROW },
    PreTokenizerRow { names: &["falcon"], regexes: &[r"[\p{P}\$\+<=>\^\~\|`]+", GPT2, DIGITS_3], ..ROW },
    PreTokenizerRow {
        names: &["deepseek-llm"],
        regexes: &[r"[\r\n]", CASED, PUNCT, r"\s+$", CJK_WIDE, r"\p{N}+"],
        clean_spaces: false,
        ..ROW
    },
    PreTokenizerRow {
        names: &["deepseek-coder"],
        regexes: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK_WIDE, r"\p{N}"],
        clean_spaces: false,
        ..ROW
    },
    PreTokenizerRow {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        regexes: &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3],
        clean_spaces: false,
        ..ROW
    },
    PreTokenizerRow {
        names: &["tekken"],
        regexes: &[words_cased!("", "")],
        ignore_merges: true,
        add_bos: true,
        clean_spaces: false,
        ..ROW
    },
    PreTokenizerRow {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        regexes: &[words_cased!(concat!(contractions!(), "?"), "{1,3}")],
        clean_spaces: false,
        ..ROW
    },
    PreTokenizerRow { names: &["poro-chat"], regexes: &[BLOOM], clean_spaces: false, ..ROW },
    PreTokenizerRow { names: &["bloom", "gpt3-finnish"], regexes: &[BLOOM], ..ROW },
    PreTokenizerRow { names: &["viking"], regexes: &[BLOOM, r"\p{N}"], clean_spaces: false, ..ROW },
];

/// The row of a name.
pub(super) fn row(name: &str) -> Option<&'static PreTokenizerRow> {
    ROWS.iter().find(|row| row.names.contains(&name))
}

/// A regex of a row, ready to run.
struct Splitter {
    regex: Regex,
    /// It ends in `|\s+(?!\S)|\s+`: a match of `\s+` before something else leaves one character of white space to it.
    leaves_space: bool,
    /// It has `\s*[\r\n]+` too, which matches before `\s+` does and leaves nothing.
    takes_newlines: bool,
}

/// Cuts texts into pieces.
pub(super) struct PreTokenizer {
    splitters: Vec<Splitter>,
}

impl PreTokenizer {
    /// The pre-tokenizer of a row.
    pub fn new(row: &PreTokenizerRow) -> Result<Self, regex::Error> {
        let splitters = row.regexes.iter().map(|regex| Splitter::new(regex)).collect::<Result<_, _>>()?;
        Ok(PreTokenizer { splitters })
    }

    /// Gives the pieces of `text` to `piece`, in order; together they are the text. One by one: a list of them would take
    /// several times the memory of a long text.
    pub fn split(&self, text: &str, piece: &mut dyn FnMut(Range<usize>)) {
        if !text.is_empty() {
            split_with(&self.splitters, text, 0..text.len(), piece);
        }
    }
}

/// Splits a piece with each of `splitters` in turn.
fn split_with(splitters: &[Splitter], text: &str, whole: Range<usize>, piece: &mut dyn FnMut(Range<usize>)) {
    match splitters {
        [] => piece(whole),
        [first, rest @ ..] => first.split(text, whole, &mut |part| split_with(rest, text, part, piece)),
    }
}

impl Splitter {
    /// The regex crate runs in linear time and has no look-ahead, so the one that all lists share is done by `end`.
    fn new(regex: &str) -> Result<Self, regex::Error> {
        let head = regex.strip_suffix(r"|\s+(?!\S)|\s+");
        let takes_newlines = regex.contains(r"|\s*[\r\n]+|");
        let mut pattern = head.map_or(regex.to_string(), |head| format!(r"{head}|\s+"));
        // llama.cpp's tables are those of Unicode 15.1, in which later characters have no category.
        for category in ["L", "N", "P", "S", "M"] {
            pattern = pattern.replace(&format!(r"\p{{{category}}}"), &format!(r"[\p{{{category}}}&&\p{{Age=15.1}}]"));
        }
        Ok(Splitter { regex: Regex::new(&pattern)?, leaves_space: head.is_some(), takes_newlines })
    }

    fn split(&self, text: &str, piece: Range<usize>, out: &mut dyn FnMut(Range<usize>)) {
        let base = piece.start;
        let text = &text[piece];
        let (mut done, mut at) = (0, 0);
        while let Some(found) = self.regex.find_at(text, at) {
            at = self.end(text, found.range());
            if found.start() > done {
                out(base + done..base + found.start());
            }
            out(base + found.start()..base + at);
            done = at;
        }
        if done < text.len() {
            out(base + done..base + text.len());
        }
    }

    /// Where a match really ends: before its last character if it is white space, has more than one character, and
    /// something else follows.
    fn end(&self, text: &str, found: Range<usize>) -> usize {
        if !self.leaves_space || found.end == text.len() {
            return found.end;
        }
        match text[found.clone()].char_indices().next_back() {
            Some((_, '\r' | '\n')) if self.takes_newlines => found.end,
            Some((at, last)) if at > 0 && last.is_whitespace() => found.start + at,
            _ => found.end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let pre = PreTokenizer::new(row(name).unwrap()).unwrap();
        let mut pieces = Vec::new();
        pre.split(text, &mut |piece| pieces.push(&text[piece]));
        pieces
    }

    #[test]
    fn every_row_compiles_and_no_name_is_there_twice() {
        let mut names: Vec<_> = ROWS.iter().flat_map(|row| row.names).collect();
        for name in &names {
            assert_eq!(pieces(name, "Hello  world").concat(), "Hello  world", "{name}");
        }
        let n = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), n);
        assert!(row("no-such").is_none());
    }

    #[test]
    fn white_space_before_a_word_goes_with_it() {
        assert_eq!(pieces("gpt-2", "a   b\n\nc  "), ["a", "  ", " b", "\n", "\n", "c", "  "]);
        assert_eq!(pieces("llama-bpe", "a   b\n\nc \n d  "), ["a", "  ", " b", "\n\n", "c", " \n", " d", "  "]);
        assert_eq!(pieces("llama-bpe", "a \u{3000}\t1"), ["a", " \u{3000}", "\t", "1"]);
    }

    /// Letters, numbers, marks and symbols that came with Unicode 16 have no category in llama.cpp.
    #[test]
    fn categories_are_those_of_unicode_15_1() {
        assert_eq!(pieces("llama-bpe", "a\u{1C89}"), ["a", "\u{1C89}"]);
        assert_eq!(pieces("llama-bpe", "a\u{1C88}"), ["a\u{1C88}"]);
        assert_eq!(pieces("llama-bpe", "a\u{2EBF0}"), ["a\u{2EBF0}"]);
        assert_eq!(pieces("llama-bpe", "1\u{10D40}"), ["1", "\u{10D40}"]);
        assert_eq!(pieces("deepseek-v3", "!\u{2427}"), ["!", "\u{2427}"]);
        assert_eq!(pieces("deepseek-v3", "!\u{2426}"), ["!\u{2426}"]);
        assert_eq!(pieces("deepseek-v3", "e\u{897}"), ["e", "\u{897}"]);
        assert_eq!(pieces("falcon", "!\u{1B4E}!"), ["!", "\u{1B4E}", "!"]);
    }

    #[test]
    fn regexes_apply_in_turn() {
        assert_eq!(pieces("default", "a,1234567"), ["a", ",", "123", "456", "7"]);
        assert_eq!(pieces("falcon", "a`1234"), ["a", "`", "123", "4"]);
        assert_eq!(pieces("tekken", "HTTPServer12 don't"), ["HTTPServer", "1", "2", " don", "'t"]);
        assert_eq!(pieces("gpt-4o", "HTTPServer1234 don't"), ["HTTPServer", "123", "4", " don't"]);
        assert_eq!(pieces("deepseek-v3", "~x ~é !~ \u{3000}ｘ"), ["~x", " ~", "é", " !~", " ", "\u{3000}ｘ"]);
    }
}
