//! The language of searches, devpi-web's as far as people use it (spec/http-api.md section 17), and what becomes of it
//! in FTS5.
//!
//! No text is an error: what cannot be understood is taken for words. Nothing that was typed reaches FTS5 but inside
//! quotes.

#[cfg(test)]
mod tests;

/// The longest query that is read, in characters.
pub const CHARS_MAX: usize = 400;
/// Most terms of a query; later ones are passed over.
const TERMS_MAX: usize = 24;
/// Parentheses within parentheses.
const DEPTH_MAX: usize = 16;
/// How often a boosted term is counted at most.
const BOOST_MAX: usize = 4;
/// From this length on, in characters, words are found by their beginnings, and names by what they have inside.
pub const PART_CHARS_MIN: usize = 3;

/// What a term is looked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// All text.
    Text,
    /// One kind of mark, by its first letter.
    Mark(char),
}

/// Fields by name, with the letter that begins their marks.
const FIELDS: [(&str, Field); 8] = [
    ("name", Field::Mark('n')),
    ("user", Field::Mark('u')),
    ("index", Field::Mark('i')),
    ("path", Field::Mark('p')),
    ("type", Field::Mark('t')),
    ("keywords", Field::Mark('k')),
    ("classifiers", Field::Mark('c')),
    ("text", Field::Text),
];

/// What `type:` may say besides `project` and `page`, with the column that the words beside it are looked for in.
const TYPES: [(&str, &str); 8] = [
    ("project", "name"),
    ("title", "title"),
    ("page", "body"),
    ("summary", "summary"),
    ("keywords", "keywords"),
    ("author", "author"),
    ("author_email", "author"),
    ("description", "body"),
];

/// One thing that is looked for.
#[derive(Clone, Debug, PartialEq)]
struct Term {
    field: Field,
    text: String,
    /// Whether it may be the beginning of something longer.
    is_prefix: bool,
    is_quoted: bool,
    /// How often it counts.
    boost: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Term(Term),
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    /// The first, and better if the second, too.
    Maybe(Box<Node>, Box<Node>),
}

/// A query that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    node: Option<Node>,
    /// The words in normal form of a name, if it is made of words alone.
    name: Option<String>,
    /// Words to mark in what is shown.
    words: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Open,
    Close,
    And,
    Or,
    Not,
    AndNot,
    AndMaybe,
    Term(Term),
}

impl Query {
    /// Reads a query. An empty one finds nothing.
    pub fn parse(text: &str) -> Self {
        let text: String = text.chars().take(CHARS_MAX).collect();
        let tokens = tokens(&text);
        let is_plain = |token: &Token| match token {
            Token::Term(term) => term.field == Field::Text && !term.is_quoted,
            _ => false,
        };
        let name = (!tokens.is_empty() && tokens.iter().all(is_plain)).then(|| {
            let word = |token: &Token| match token {
                Token::Term(term) => term.text.clone(),
                _ => String::new(),
            };
            let words: Vec<String> = tokens.iter().map(word).collect();
            crate::names::ProjectName::new(&words.join("-")).as_str().trim_matches('-').to_owned()
        });
        let mut parser = Parser { tokens: &tokens, at: 0 };
        let mut parts = Vec::new();
        // What is left over after a closing parenthesis too many is one more part.
        while parser.at < tokens.len() {
            parts.extend(parser.any(0));
            if parser.at < tokens.len() {
                parser.at += 1;
            }
        }
        let node = all_of(parts);
        let mut words = Vec::new();
        if let Some(node) = &node {
            collect_words(node, &mut words);
        }
        Self { node, name: name.filter(|name| !name.is_empty()), words }
    }

    /// The words as one name in normal form, if there is nothing but words.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.node.is_none()
    }
    /// Words that may be marked where they stand in a text, in lower case.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The expression that FTS5 takes, looking for words in `columns`; `None` if there is nothing to look for.
    pub fn expression(&self, columns: &str) -> Option<String> {
        self.node.as_ref().map(|node| draw(node, Way { columns, is_whole: false }))
    }

    /// The same for whole words alone: it finds less, and where that is much, far sooner.
    pub fn whole_expression(&self, columns: &str) -> Option<String> {
        self.node.as_ref().map(|node| draw(node, Way { columns, is_whole: true }))
    }
}

/// A name's mark of one kind: what stands in the column of marks, all in letters and digits so that it is one token.
pub fn mark(kind: char, text: &str) -> String {
    exact_mark(kind, &text.to_lowercase())
}

/// The same where `a` and `A` are two things. The database itself makes no difference between them.
pub fn exact_mark(kind: char, text: &str) -> String {
    let mut mark = String::with_capacity(text.len() + 1);
    mark.push(kind);
    for byte in text.bytes() {
        match byte {
            b'q' => mark.push_str("q71"),
            b if b.is_ascii_lowercase() || b.is_ascii_digit() => mark.push(char::from(b)),
            b => mark.push_str(&format!("q{b:02x}")),
        }
    }
    mark
}

/// The mark that everything has.
pub const EVERYTHING: &str = "all";

fn collect_words(node: &Node, words: &mut Vec<String>) {
    match node {
        Node::Term(term) if term.field == Field::Text => {
            let parts = term.text.split(|c: char| !c.is_alphanumeric());
            words.extend(parts.filter(|part| !part.is_empty()).map(str::to_lowercase));
        }
        Node::Term(_) | Node::Not(_) => (),
        Node::And(nodes) | Node::Or(nodes) => {
            nodes.iter().for_each(|node| collect_words(node, words));
        }
        Node::Maybe(one, other) => {
            collect_words(one, words);
            collect_words(other, words);
        }
    }
}

/// How words are looked for.
#[derive(Clone, Copy)]
struct Way<'a> {
    /// In which columns.
    columns: &'a str,
    /// Whether only whole words count.
    is_whole: bool,
}

fn draw(node: &Node, way: Way<'_>) -> String {
    let each = |nodes: &[Node], word: &str| {
        let drawn: Vec<String> = nodes.iter().map(|node| draw(node, way)).collect();
        format!("({})", drawn.join(word))
    };
    match node {
        Node::Term(term) => draw_term(term, way),
        Node::Or(nodes) => each(nodes, " OR "),
        Node::Not(_) => format!("(marks:\"{EVERYTHING}\" NOT {})", draw(inner(node), way)),
        Node::Maybe(one, other) => draw_maybe(one, other, way),
        Node::And(nodes) => {
            let columns = nodes.iter().find_map(column_of_type).unwrap_or(way.columns);
            let way = Way { columns, ..way };
            let each = |nodes: &[Node], word: &str| {
                let drawn: Vec<String> = nodes.iter().map(|node| draw(node, way)).collect();
                format!("({})", drawn.join(word))
            };
            let (without, with): (Vec<Node>, Vec<Node>) =
                nodes.iter().cloned().partition(|node| matches!(node, Node::Not(_)));
            let with = match with.is_empty() {
                true => format!("marks:\"{EVERYTHING}\""),
                false => each(&with, " AND "),
            };
            let without: Vec<Node> = without.iter().map(|node| inner(node).clone()).collect();
            match without.is_empty() {
                true => with,
                false => format!("({with} NOT {})", each(&without, " OR ")),
            }
        }
    }
}

/// What has the first, and counts more if it has one of the others too. The first is written twice, so only where it
/// has nothing of the kind within: else a chain of these would double at each link.
fn draw_maybe(one: &Node, other: &Node, way: Way<'_>) -> String {
    let (mut first, mut others) = (one, vec![draw(other, way)]);
    while let Node::Maybe(one, other) = first {
        others.push(draw(other, way));
        first = one;
    }
    let drawn = draw(first, way);
    match has_maybe(first) {
        true => drawn,
        false => format!("({drawn} OR ({drawn} AND ({})))", others.join(" OR ")),
    }
}

fn has_maybe(node: &Node) -> bool {
    match node {
        Node::Term(_) => false,
        Node::And(nodes) | Node::Or(nodes) => nodes.iter().any(has_maybe),
        Node::Not(node) => has_maybe(node),
        Node::Maybe(..) => true,
    }
}

/// The one column that words beside a `type:` are looked for in.
fn column_of_type(node: &Node) -> Option<&'static str> {
    let Node::Term(Term { field: Field::Mark('t'), text, .. }) = node else { return None };
    TYPES.iter().find(|(name, _)| name == text).map(|(_, column)| *column)
}

fn inner(node: &Node) -> &Node {
    match node {
        Node::Not(inner) => inner,
        node => node,
    }
}

fn draw_term(term: &Term, way: Way<'_>) -> String {
    let star = if term.is_prefix { "*" } else { "" };
    let drawn = match term.field {
        Field::Mark(kind) => {
            let text = match kind {
                'n' if !term.is_quoted => crate::names::ProjectName::new(&term.text).to_string(),
                _ => term.text.clone(),
            };
            match place_of(term) {
                Some(place) => format!("marks:\"{place}\""),
                None => format!("marks:\"{}\"{star}", mark(kind, &text)),
            }
        }
        Field::Text => {
            let is_odd = |c: char| c == '"' || c.is_control();
            let quoted = term.text.replace(is_odd, " ");
            // Words may be the beginning of longer ones, since people see results while they type. What is shorter
            // begins so many that it says little.
            let last = last_word(&term.text);
            let is_short = last.chars().count() < PART_CHARS_MIN;
            let is_begun = !term.is_quoted && !is_short && !way.is_whole;
            let star = if term.is_prefix || is_begun { "*" } else { "" };
            let in_text = format!("{{{}}}:\"{quoted}\"{star}", way.columns);
            let has_parts = !way.is_whole && way.columns.split(' ').any(|column| column == "name");
            match has_parts
                && !term.is_quoted
                && PART_CHARS_MIN <= last.chars().count()
                && last == term.text
            {
                true => format!("({in_text} OR parts:\"{last}\"*)"),
                false => in_text,
            }
        }
    };
    match term.boost {
        0 | 1 => drawn,
        times => format!("({})", vec![drawn; times].join(" OR ")),
    }
}

/// The mark of all that lies below a whole user or a whole index, as in `path:/ann/dev/*`: one word for what else would
/// be the beginning of thousands.
fn place_of(term: &Term) -> Option<String> {
    if term.field != Field::Mark('p') || !term.is_prefix {
        return None;
    }
    let place = term.text.strip_prefix('/')?.strip_suffix('/')?;
    match place.split('/').count() {
        1 if !place.is_empty() => Some(mark('u', place)),
        2 => Some(exact_mark('w', place)),
        _ => None,
    }
}

fn last_word(text: &str) -> &str {
    text.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()
}

fn all_of(mut nodes: Vec<Node>) -> Option<Node> {
    match nodes.len() {
        0 => None,
        1 => nodes.pop(),
        _ => Some(Node::And(nodes)),
    }
}

/// Takes a text apart.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut tokens, mut at, mut terms) = (Vec::new(), 0, 0);
    while let Some(c) = chars.get(at) {
        match c {
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            c if c.is_whitespace() => (),
            _ => {
                let (token, end) = word(&chars, at);
                at = end;
                match token {
                    Some(Token::Term(_)) if TERMS_MAX <= terms => (),
                    Some(token) => {
                        terms += usize::from(matches!(token, Token::Term(_)));
                        tokens.push(token);
                    }
                    None => (),
                }
                continue;
            }
        }
        at += 1;
    }
    tokens
}

/// A word or a quoted text with its field and boost, and where it ends. A word without a letter or digit is nothing.
fn word(chars: &[char], start: usize) -> (Option<Token>, usize) {
    let (mut field, mut at) = (Field::Text, start);
    for (name, known) in FIELDS {
        let end = start + name.len();
        let is_named =
            chars.get(start..end).is_some_and(|part| part.iter().copied().eq(name.chars()));
        if is_named && chars.get(end) == Some(&':') {
            (field, at) = (known, end + 1);
        }
    }
    let quote = chars.get(at).copied().filter(|c| matches!(c, '\'' | '"'));
    let closing = quote.and_then(|quote| {
        chars.get(at + 1..)?.iter().position(|c| *c == quote).map(|length| at + 1 + length)
    });
    let (mut text, mut end): (String, usize) = match closing {
        Some(closing) => (chars[at + 1..closing].iter().collect(), closing + 1),
        None => {
            let rest = &chars[at.min(chars.len())..];
            let is_end = |c: &char| c.is_whitespace() || matches!(c, '(' | ')');
            let length = rest.iter().position(is_end).unwrap_or(rest.len());
            (rest[..length].iter().collect(), at + length)
        }
    };
    if closing.is_none() && at == start {
        let operator = match text.as_str() {
            "AND" => Some(Token::And),
            "OR" => Some(Token::Or),
            "NOT" => Some(Token::Not),
            "ANDNOT" => Some(Token::AndNot),
            "ANDMAYBE" => Some(Token::AndMaybe),
            _ => None,
        };
        if operator.is_some() {
            return (operator, end);
        }
    }
    let mut boost = 1;
    if closing.is_some() {
        let rest: String = chars[end..].iter().take_while(|c| !c.is_whitespace()).collect();
        if let Some(number) = rest.strip_prefix('^').and_then(boost_of) {
            (boost, end) = (number, end + rest.chars().count());
        }
    } else if let Some((before, number)) = text.rsplit_once('^')
        && let Some(number) = boost_of(number)
    {
        (text, boost) = (before.to_owned(), number);
    }
    let is_prefix = text.ends_with('*') || closing.is_some() && chars.get(end) == Some(&'*');
    end += usize::from(closing.is_some() && chars.get(end) == Some(&'*'));
    let text = text.trim_end_matches('*').to_owned();
    let is_something = text.chars().any(char::is_alphanumeric) || is_prefix && field != Field::Text;
    let is_quoted = closing.is_some();
    let term = Term { field, text, is_prefix, is_quoted, boost };
    (is_something.then_some(Token::Term(term)), end.max(start + 1))
}

/// How often a term counts by its boost.
fn boost_of(number: &str) -> Option<usize> {
    let number: f64 = number.parse().ok()?;
    Some(if number.is_finite() { (number.round() as usize).clamp(1, BOOST_MAX) } else { 1 })
}

struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
}

impl Parser<'_> {
    fn next_is(&mut self, token: &Token) -> bool {
        let is = self.tokens.get(self.at) == Some(token);
        self.at += usize::from(is);
        is
    }

    /// Alternatives, up to a closing parenthesis or the end.
    fn any(&mut self, depth: usize) -> Option<Node> {
        let mut nodes: Vec<Node> = self.all(depth).into_iter().collect();
        while self.next_is(&Token::Or) {
            nodes.extend(self.all(depth));
        }
        match nodes.len() {
            0 | 1 => nodes.pop(),
            _ => Some(Node::Or(nodes)),
        }
    }

    /// What stands side by side, or is joined by the words other than `OR`.
    fn all(&mut self, depth: usize) -> Option<Node> {
        let mut nodes = Vec::new();
        loop {
            match self.tokens.get(self.at) {
                None | Some(Token::Close | Token::Or) => return all_of(nodes),
                Some(Token::And) => self.at += 1,
                Some(Token::AndNot) => {
                    self.at += 1;
                    nodes.extend(self.one(depth).map(|node| Node::Not(Box::new(node))));
                }
                Some(Token::AndMaybe) => {
                    self.at += 1;
                    let before = all_of(std::mem::take(&mut nodes));
                    nodes.extend(match (before, self.one(depth)) {
                        (Some(one), Some(other)) => {
                            Some(Node::Maybe(Box::new(one), Box::new(other)))
                        }
                        (one, other) => one.or(other),
                    });
                }
                Some(_) => nodes.extend(self.one(depth)),
            }
        }
    }

    fn one(&mut self, depth: usize) -> Option<Node> {
        match self.tokens.get(self.at)? {
            Token::Not => {
                self.at += 1;
                match self.one(depth)? {
                    Node::Not(inner) => Some(*inner),
                    node => Some(Node::Not(Box::new(node))),
                }
            }
            Token::Open => {
                self.at += 1;
                // Deeper ones are taken as if they were not there.
                if DEPTH_MAX <= depth {
                    return None;
                }
                let node = self.any(depth + 1);
                self.next_is(&Token::Close);
                node
            }
            Token::Term(term) => {
                self.at += 1;
                Some(Node::Term(term.clone()))
            }
            Token::Close | Token::Or => None,
            Token::And | Token::AndNot | Token::AndMaybe => {
                self.at += 1;
                None
            }
        }
    }
}
