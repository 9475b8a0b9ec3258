//! Conversations and turns, through pipes.

use crate::run::*;
use std::io::{BufRead, BufReader, Read, Write};

const CHAT: [&str; 6] = ["--chat-template", "chatml", "-n", "16", "--seed", "3"];

#[test]
fn one_turn_through_a_template() {
    let ran = fabric(&[&CHAT[..], &["-st", "-p", "Who is the king?"]].concat());
    assert!(ran.stderr.contains("t/s | Generation: "), "{}", ran.stderr);
    insta::assert_snapshot!(ran.good());
}

#[test]
fn the_template_makes_the_prompt() {
    let answer = |text: String| text.split_once('\n').unwrap().1.trim_end().to_string();
    let chat =
        |flags: &[&str]| answer(fabric(&[&["-st", "-p", "Speak", "-n", "16", "--temp", "0"], flags].concat()).good());
    let template =
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ sep | default(';') }}{% endfor %}";
    let completed = |prompt: &str| {
        let text = fabric(&["-p", prompt, "-n", "16", "--temp", "0", "--no-display-prompt"]).good();
        text.trim_end().to_string()
    };
    assert_eq!(chat(&["--chat-template", template]), completed("[user] Speak;"));
    assert_eq!(chat(&["--chat-template", template, "-sys", "Be brief"]), completed("[system] Be brief;[user] Speak;"));
    let kwargs = ["--chat-template", template, "--chat-template-kwargs", r#"{"sep": " |"}"#];
    assert_eq!(chat(&kwargs), completed("[user] Speak |"));
    let dir = Dir::new();
    let file = dir.file("template.jinja", template.as_bytes());
    assert_eq!(chat(&["--chat-template-file", &file]), completed("[user] Speak;"));
    // A model with a template converses unless it is told not to.
    let model =
        dir.file("model.gguf", &tiny_with_metadata(|m| drop(m.insert(gguf::key::TOKENIZER_CHAT_TEMPLATE, template))));
    assert_eq!(chat(&["-m", &model]), completed("[user] Speak;"));
    let plain =
        fabric(&["-m", &model, "-no-cnv", "-p", "Speak", "-n", "16", "--temp", "0", "--no-display-prompt"]).good();
    assert_eq!(plain.trim_end(), completed("Speak"));
}

#[test]
fn a_template_that_refuses_is_an_error() {
    let refuses = "{{ raise_exception('no questions') }}";
    let message = fabric(&["--chat-template", refuses, "-st", "-p", "x"]).fails_with(1);
    assert!(message.contains("no questions"), "{message}");
    let message = fabric(&["--chat-template", "{% endfor %}", "-st", "-p", "x"]).fails_with(1);
    assert!(message.contains("chat template, line 1"), "{message}");
}

#[test]
fn messages_from_a_pipe_and_commands() {
    let dir = Dir::new();
    let note = dir.file("note.txt", b"A note.");
    let stdin = format!(
        "Hello\\\nthere\n/regen\n/clear\n/nonsense\n/read {note}\n/read /nowhere\nHello\n/help\n/exit\nnever read\n"
    );
    let ran = fabric_with_stdin(&CHAT, stdin.as_bytes());
    assert!(ran.stderr.contains("error: cannot read /nowhere"), "{}", ran.stderr);
    let shown = ran.good();
    assert_eq!(shown.matches("\n\n").count(), 3, "three answers: {shown}");
    assert!(shown.contains("The conversation begins anew.\n"), "{shown}");
    assert!(shown.contains("There is no command /nonsense"), "{shown}");
    assert!(shown.contains("7 characters of ") && shown.contains("/regen       answer"), "{shown}");
    let mut answers = shown.split("\n\n");
    assert_ne!(answers.next(), answers.next(), "/regen draws again");
}

#[test]
fn what_was_run_before_is_not_run_again_and_changes_nothing() {
    // Two turns in one process ...
    let two = fabric_with_stdin(&CHAT, b"Hello\nAnd then?\n");
    let counts: Vec<usize> = two
        .stderr
        .lines()
        .filter_map(|l| l.strip_prefix("common_perf_print: prompt eval time"))
        .map(|l| l.split_once('/').unwrap().1.trim().split_once(' ').unwrap().0.parse().unwrap())
        .collect();
    // ... run the first one's tokens once: with chatml on this vocabulary a turn has 40 tokens or so.
    assert!(matches!(counts[..], [n] if n < 110), "{counts:?}");
    let text = two.good();
    let first = text.split("\n\n").next().unwrap();
    // ... and give the second answer that a new process gives to the same conversation.
    let template = format!(
        "{{{{ '<|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\n' }}}}{{{{ said }}}}{{{{ '<|im_end|>\\n' }}}}{}",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}{{ '<|im_start|>assistant\\n' }}"
    );
    let kwargs = serde_json::json!({ "said": first }).to_string();
    let again = fabric(&[
        "--chat-template",
        &template,
        "--chat-template-kwargs",
        &kwargs,
        "-n",
        "16",
        "--seed",
        "3",
        "-st",
        "-p",
        "And then?",
    ])
    .good();
    let second = text.split("\n\n").nth(1).unwrap();
    assert_eq!(again.split_once('\n').unwrap().1.trim_end_matches('\n'), second.trim_end_matches('\n'));
}

#[test]
fn an_answer_does_not_depend_on_what_was_said_before_it_was_forgotten() {
    let fresh = |seed: &str, message: &str| {
        let ran = fabric_with_stdin(&["--chat-template", "chatml", "-n", "16", "--seed", seed], message.as_bytes());
        ran.good().trim_end().to_string()
    };
    // The cache keeps what the texts have in common, and no more.
    let shown = fabric_with_stdin(&CHAT, b"Hello\n/regen\n/clear\nHelp me\n/clear\nHello\n").good();
    let shown = shown.replace("The conversation begins anew.\n", "");
    let answers: Vec<&str> = shown.split_terminator("\n\n").collect();
    let expected = [fresh("3", "Hello"), fresh("4", "Hello"), fresh("3", "Help me"), fresh("3", "Hello")];
    assert_eq!(answers, expected);
}

#[test]
fn a_message_that_does_not_fit_is_left_out() {
    let long = "word ".repeat(300);
    let ran = fabric_with_stdin(&CHAT, format!("{long}\nHello\n").as_bytes());
    assert!(ran.stderr.contains("error: the prompt is too long"), "{}", ran.stderr);
    let once = fabric_with_stdin(&CHAT, b"Hello\n").good();
    assert_eq!(ran.good(), once);
    fabric(&[&CHAT[..], &["-st", "-p", &long]].concat()).fails_with(1);
}

#[test]
fn an_input_that_is_no_text_is_read() {
    let all: Vec<u8> = (1..=255).collect();
    fabric_with_stdin(&CHAT, &all).good();
    fabric_with_stdin(&CHAT, b"").good();
    fabric_with_stdin(&CHAT, b"no line feed").good();
}

#[test]
fn turns_without_a_template() {
    let ran = fabric_with_stdin(
        &[
            "-i",
            "-p",
            "Moses: Who art thou?\nPharaoh:",
            "-r",
            "Moses:",
            "--in-prefix",
            " ",
            "--in-suffix",
            "Pharaoh:",
            "-n",
            "12",
            "--seed",
            "2",
        ],
        b"Let my people go\n",
    );
    let shown = ran.good();
    assert!(shown.starts_with(" Moses: Who art thou?\nPharaoh:"), "{shown}");
    assert!(shown.matches("Pharaoh:").count() >= 2, "{shown}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_an_answer_and_not_the_conversation() {
    let mut child = piped(&["--chat-template", "chatml", "-n", "-1", "-c", "200000", "--ignore-eos", "-t", "1"]);
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    writeln!(stdin, "Hello").unwrap();
    stdout.read_exact(&mut [0; 4]).unwrap();
    let id = child.id();
    assert!(std::process::Command::new("/bin/sh").args(["-c", &format!("kill -INT {id}")]).status().unwrap().success());
    // The answer ends with an empty line; only then is the command read.
    writeln!(stdin, "/help").unwrap();
    drop(stdin);
    let lines: Vec<String> = stdout.lines().map(Result::unwrap).collect();
    assert!(lines.iter().any(|l| l.starts_with("/regen")), "{lines:?}");
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert!(ran.stderr.contains("(stopped)"), "{}", ran.stderr);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
}
