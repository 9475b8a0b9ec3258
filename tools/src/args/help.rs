//! `--help`: flags by concern, with llama.cpp's spellings, in 80 columns.

use super::absent::{Absent, Policy};
use super::argv::spellings;
use clap::{Arg, Command};

const WIDTH: usize = 80;
/// Where the text about a flag begins.
const INDENT: usize = 28;

/// A space where no line is broken.
const NO_BREAK: char = '\u{a0}';

/// The whole text.
pub fn render(command: &Command, absent: &[Absent]) -> String {
    let mut out = String::new();
    if let Some(about) = command.get_about() {
        wrap(&mut out, &format!("{about}."), 0);
    }
    out.push_str(&format!("\nUsage: {} [FLAGS]", command.get_name()));
    for arg in command.get_positionals() {
        out.push_str(&format!(" {}", value_names(arg)));
    }
    out.push('\n');
    let mut headings: Vec<&str> = Vec::new();
    for arg in command.get_arguments() {
        let heading = arg.get_help_heading().unwrap_or("General");
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        out.push_str(&format!("\n{heading}\n"));
        let of_heading = |a: &&Arg| a.get_help_heading().unwrap_or("General") == heading && !a.is_hide_set();
        for arg in command.get_arguments().filter(of_heading) {
            render_arg(&mut out, arg);
        }
    }
    if !absent.is_empty() {
        let list = |wanted: fn(&Policy) -> bool| {
            let rows = absent.iter().filter(|row| wanted(&row.policy));
            rows.filter_map(|row| row.spellings.first().copied()).collect::<Vec<_>>().join(" ")
        };
        out.push_str("\nAccepted without effect\n");
        wrap(&mut out, &list(|p| matches!(p, Policy::Ignored(_) | Policy::Silent)), 2);
        out.push_str("\nNot supported, except with values that change nothing\n");
        wrap(&mut out, &list(|p| matches!(p, Policy::Refused(_) | Policy::Only(..))), 2);
    }
    if let Some(after) = command.get_after_help() {
        out.push('\n');
        for line in after.to_string().lines() {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

fn value_names(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(" ")
}

fn render_arg(out: &mut String, arg: &Arg) {
    let switch = super::value::is_switch(arg);
    let mut left = format!("  {}", spellings(arg).into_iter().map(|(s, _)| s).collect::<Vec<_>>().join(", "));
    if arg.is_positional() {
        left = format!("  {}", value_names(arg));
    } else if arg.get_action().takes_values() && !switch {
        let optional = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
        let names = value_names(arg);
        left.push_str(&if optional { format!(" [{names}]") } else { format!(" {names}") });
    }
    let mut help = match arg.get_id().as_str() {
        "help" => "Print this text".to_string(),
        "version" => "Print the version (to standard error)".to_string(),
        _ => arg.get_help().map(ToString::to_string).unwrap_or_default(),
    };
    let defaults: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
    if !defaults.is_empty() && !arg.is_hide_default_value_set() && arg.get_action().takes_values() {
        let default = match defaults.join(" ") {
            yes if switch && yes == "true" => "on".to_string(),
            _ if switch => "off".to_string(),
            other => other,
        };
        help.push_str(&format!(" (default:{NO_BREAK}{default})"));
    }
    if let Some(env) = arg.get_env() {
        help.push_str(&format!(" [env:{NO_BREAK}{}]", env.to_string_lossy()));
    }
    if left.len() + 1 < INDENT {
        left.push_str(&" ".repeat(INDENT - left.len()));
    } else {
        let mut broken = String::new();
        wrap(&mut broken, left.trim_start(), 2);
        out.push_str(&broken);
        left = " ".repeat(INDENT);
    }
    let mut text = String::new();
    wrap(&mut text, &help, INDENT);
    out.push_str(&left);
    out.push_str(text.trim_start());
    if text.is_empty() {
        out.push('\n');
    }
}

/// Appends `text` broken into lines of at most [`WIDTH`] columns: at spaces, and in long lists after semicolons.
fn wrap(out: &mut String, text: &str, indent: usize) {
    let mut column = 0;
    for word in text.split([' ', '\n']).filter(|w| !w.is_empty()) {
        let long = indent + word.chars().count() > WIDTH;
        let parts = if long { word.split_inclusive(';').collect() } else { vec![word] };
        for (i, part) in parts.into_iter().enumerate() {
            let (space, width) = (usize::from(i == 0 && column > indent), part.chars().count());
            if column > indent && column + space + width > WIDTH {
                out.push('\n');
                column = 0;
            }
            if column == 0 {
                out.push_str(&" ".repeat(indent));
                column = indent;
            } else if space > 0 {
                out.push(' ');
                column += 1;
            }
            out.push_str(&part.replace(NO_BREAK, " "));
            column += width;
        }
    }
    if column > 0 {
        out.push('\n');
    }
}
