//! PromQL as far as alerts, boards and scalers need it: syntax, types of arguments, and what an
//! expression uses. What is not known here is an error, so a new function is added with its types.

use std::collections::BTreeSet;

/// What an expression is made of.
#[derive(Debug)]
pub(super) enum Expr {
    Number,
    /// A metric by name with the labels that are matched.
    Selector {
        metric: String,
        labels: BTreeSet<String>,
    },
    /// The samples of some time.
    Range(Box<Expr>),
    Call {
        function: String,
        arguments: Vec<Expr>,
    },
    Aggregate {
        /// Labels that are kept; none when `without` is used.
        by: Option<BTreeSet<String>>,
        without: BTreeSet<String>,
        of: Vec<Expr>,
    },
    Binary(Box<Expr>, Box<Expr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Scalar,
    Instant,
    Range,
}

const AGGREGATIONS: [&str; 8] = [
    "sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile",
];

/// Functions, with the types of their arguments and of their result.
const FUNCTIONS: [(&str, &[Type], Type); 9] = [
    ("rate", &[Type::Range], Type::Instant),
    ("increase", &[Type::Range], Type::Instant),
    ("delta", &[Type::Range], Type::Instant),
    ("max_over_time", &[Type::Range], Type::Instant),
    ("avg_over_time", &[Type::Range], Type::Instant),
    (
        "histogram_quantile",
        &[Type::Scalar, Type::Instant],
        Type::Instant,
    ),
    ("clamp_min", &[Type::Instant, Type::Scalar], Type::Instant),
    ("absent", &[Type::Instant], Type::Instant),
    ("time", &[], Type::Scalar),
];

/// Operators by how strongly they bind, the weakest first.
const OPERATORS: [&[&str]; 5] = [
    &["or"],
    &["and", "unless"],
    &["==", "!=", "<=", ">=", "<", ">"],
    &["+", "-"],
    &["*", "/", "%"],
];

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Number,
    Duration,
    Text,
    Sign(&'static str),
    End,
}

/// Signs; those that begin like another one come first.
const SIGNS: [&str; 21] = [
    "==", "!=", "<=", ">=", "=~", "!~", "<", ">", "=", "(", ")", "{", "}", "[", "]", ",", "+", "-",
    "*", "/", "%",
];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let run = |wanted: fn(char) -> bool| rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        let length = if first.is_ascii_digit() {
            let length = run(|c| c.is_ascii_alphanumeric() || c == '.');
            let duration = rest[..length]
                .strip_suffix(['s', 'm', 'h', 'd', 'w'])
                .is_some_and(|number| number.parse::<u64>().is_ok());
            if !duration && rest[..length].parse::<f64>().is_err() {
                return Err(format!("{} is no number", &rest[..length]));
            }
            found.push(if duration {
                Token::Duration
            } else {
                Token::Number
            });
            length
        } else if first.is_ascii_alphabetic() || first == '_' {
            let length = run(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
            found.push(Token::Word(rest[..length].to_owned()));
            length
        } else if first == '"' {
            let end = rest[1..].find('"').ok_or("a text does not end")?;
            found.push(Token::Text);
            end + 2
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = sign.ok_or_else(|| format!("{first} is not known"))?;
            found.push(Token::Sign(sign));
            sign.len()
        };
        rest = rest[length..].trim_start();
    }
    found.push(Token::End);
    Ok(found)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

/// Reads an expression whole; it gives a vector, as alerts and boards need.
pub(super) fn parse(text: &str) -> Result<Expr, String> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
    };
    let (expr, kind) = parser.binary(0)?;
    if parser.peek() != &Token::End {
        return Err(format!("{:?} is left over", parser.peek()));
    }
    match kind {
        Type::Instant => Ok(expr),
        other => Err(format!("a vector is wanted, not {other:?}")),
    }
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at]
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn takes(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(s) if *s == sign);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.takes(sign) {
            return Ok(());
        }
        Err(format!("{sign} is wanted, not {:?}", self.peek()))
    }

    fn binary(&mut self, level: usize) -> Result<(Expr, Type), String> {
        let Some(operators) = OPERATORS.get(level) else {
            return self.primary();
        };
        let (mut left, mut kind) = self.binary(level + 1)?;
        loop {
            let here = match self.peek() {
                Token::Sign(sign) => operators.contains(sign),
                Token::Word(word) => operators.contains(&word.as_str()),
                _ => false,
            };
            if !here {
                return Ok((left, kind));
            }
            self.next();
            let (right, other) = self.binary(level + 1)?;
            if kind == Type::Range || other == Type::Range {
                return Err("a range has no operators".to_owned());
            }
            let scalars = kind == Type::Scalar && other == Type::Scalar;
            if scalars && level == 2 {
                return Err("scalars are compared with `bool` only".to_owned());
            }
            if level < 2 && (kind, other) != (Type::Instant, Type::Instant) {
                return Err("sets are joined, not scalars".to_owned());
            }
            kind = if scalars { Type::Scalar } else { Type::Instant };
            left = Expr::Binary(Box::new(left), Box::new(right));
        }
    }

    fn primary(&mut self) -> Result<(Expr, Type), String> {
        match self.next() {
            Token::Number => Ok((Expr::Number, Type::Scalar)),
            Token::Sign("-") => self.primary(),
            Token::Sign("(") => {
                let inner = self.binary(0)?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Word(word) if AGGREGATIONS.contains(&word.as_str()) => self.aggregate(&word),
            Token::Word(word) if self.peek() == &Token::Sign("(") => self.call(word),
            Token::Word(word) => self.selector(word),
            other => Err(format!("{other:?} begins no expression")),
        }
    }

    fn arguments(&mut self) -> Result<Vec<(Expr, Type)>, String> {
        self.expect("(")?;
        let mut found = Vec::new();
        if self.takes(")") {
            return Ok(found);
        }
        loop {
            found.push(self.binary(0)?);
            if self.takes(")") {
                return Ok(found);
            }
            self.expect(",")?;
        }
    }

    fn labels(&mut self) -> Result<BTreeSet<String>, String> {
        self.expect("(")?;
        let mut found = BTreeSet::new();
        while !self.takes(")") {
            match self.next() {
                Token::Word(label) => found.insert(label),
                other => return Err(format!("{other:?} is no label")),
            };
            if !matches!(self.peek(), Token::Sign(")")) {
                self.expect(",")?;
            }
        }
        Ok(found)
    }

    fn grouping(&mut self) -> Result<Option<(bool, BTreeSet<String>)>, String> {
        let by = match self.peek() {
            Token::Word(word) if word == "by" => true,
            Token::Word(word) if word == "without" => false,
            _ => return Ok(None),
        };
        self.next();
        Ok(Some((by, self.labels()?)))
    }

    fn aggregate(&mut self, name: &str) -> Result<(Expr, Type), String> {
        let before = self.grouping()?;
        let arguments = self.arguments()?;
        let kinds: Vec<Type> = arguments.iter().map(|(_, kind)| *kind).collect();
        let wanted: &[Type] = match name {
            "topk" | "bottomk" | "quantile" => &[Type::Scalar, Type::Instant],
            _ => &[Type::Instant],
        };
        if kinds != wanted {
            return Err(format!("{name} takes {wanted:?}, not {kinds:?}"));
        }
        let grouping = match before {
            Some(before) => Some(before),
            None => self.grouping()?,
        };
        let (by, without) = match grouping {
            None => (Some(BTreeSet::new()), BTreeSet::new()),
            Some((true, labels)) => (Some(labels), BTreeSet::new()),
            Some((false, labels)) => (None, labels),
        };
        let of = arguments.into_iter().map(|(expr, _)| expr).collect();
        Ok((Expr::Aggregate { by, without, of }, Type::Instant))
    }

    fn call(&mut self, function: String) -> Result<(Expr, Type), String> {
        let known = FUNCTIONS.iter().find(|(name, ..)| *name == function);
        let (_, wanted, result) = known.ok_or_else(|| format!("{function} is not known"))?;
        let arguments = self.arguments()?;
        let kinds: Vec<Type> = arguments.iter().map(|(_, kind)| *kind).collect();
        if kinds != *wanted {
            return Err(format!("{function} takes {wanted:?}, not {kinds:?}"));
        }
        let arguments = arguments.into_iter().map(|(expr, _)| expr).collect();
        let call = Expr::Call {
            function,
            arguments,
        };
        Ok((call, *result))
    }

    fn selector(&mut self, metric: String) -> Result<(Expr, Type), String> {
        let mut labels = BTreeSet::new();
        if self.takes("{") {
            while !self.takes("}") {
                let Token::Word(label) = self.next() else {
                    return Err(format!("a matcher of {metric} begins with no label"));
                };
                labels.insert(label);
                if !["=", "!=", "=~", "!~"].iter().any(|sign| self.takes(sign)) {
                    return Err(format!("{:?} is no matcher", self.peek()));
                }
                if self.next() != Token::Text {
                    return Err(format!("a matcher of {metric} has no text"));
                }
                if !matches!(self.peek(), Token::Sign("}")) {
                    self.expect(",")?;
                }
            }
        }
        let selector = Expr::Selector { metric, labels };
        if !self.takes("[") {
            return Ok((selector, Type::Instant));
        }
        if self.next() != Token::Duration {
            return Err("a range has no duration".to_owned());
        }
        self.expect("]")?;
        Ok((Expr::Range(Box::new(selector)), Type::Range))
    }
}

#[test]
fn expressions_are_read_and_what_prometheus_refuses_is_refused() {
    for good in [
        r#"up{job=~"chemxor.*"} == 0"#,
        "histogram_quantile(0.95, sum by (le) (rate(a_bucket[5m]))) > 1",
        "sum(rate(a[5m])) without (x, y) / 2 * 3 or topk(3, b)",
        "a - time() < 7 * 86400",
        "-(a)",
    ] {
        parse(good).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    for bad in [
        "",
        "rate(a)",
        "rate(a[5m]",
        "rate(a[5m]))",
        "a[5m]",
        "a[5m] > 1",
        "rates(a[5m])",
        "sum by le (a)",
        "a{b=c}",
        "a{b=\"c\"",
        "a >",
        "a b",
        "1 > 2",
        "7 * 86400",
        "histogram_quantile(a, 0.95)",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
