//! The grammar of Kafel (`src/parser.y`), by descent. Statements outside of policies may follow each other without
//! commas; inside of a policy commas are required.

use std::collections::HashMap;
use std::ops::Range;

use super::ast::{Ast, Call, Filter, Machines, Name, Statement};
use super::lexer::{Lexer, Token};
use super::{Action, KafelError, MAX_SOURCE_BYTES};

/// Arguments of a system call.
const MAX_ARGUMENTS: usize = 6;

#[derive(Debug)]
pub(super) struct Parser<'a> {
    lexer: Lexer<'a>,
    pub(super) token: Token<'a>,
    pub(super) span: Range<usize>,
    constants: HashMap<&'a str, u64>,
    policies: HashMap<&'a str, usize>,
    ast: Ast<'a>,
}

/// Reads a source.
pub(super) fn parse(source: &str) -> Result<Ast<'_>, KafelError> {
    let mut lexer = Lexer::new(source);
    if source.len() > MAX_SOURCE_BYTES {
        let limit = format!("at most {MAX_SOURCE_BYTES} bytes");
        return Err(KafelError::Limit { place: lexer.place(0..0), limit });
    }
    let (token, span) = lexer.next()?;
    let (constants, policies) = (HashMap::new(), HashMap::new());
    let mut parser = Parser { lexer, token, span, constants, policies, ast: Ast::default() };
    parser.program()?;
    Ok(parser.ast)
}

impl<'a> Parser<'a> {
    fn program(&mut self) -> Result<(), KafelError> {
        loop {
            match self.token {
                Token::Mark("#") => self.constant()?,
                Token::Word("POLICY") => self.policy()?,
                Token::Word("DEFAULT") => self.default()?,
                Token::Word(word) if word == "USE" || is_action(word) => {
                    let statements = self.statements()?;
                    self.ast.main.extend(statements);
                }
                _ => return Err(self.expected("#define, POLICY, USE, DEFAULT or an action")),
            }
            if self.token == Token::End {
                return Ok(());
            }
        }
    }

    fn constant(&mut self) -> Result<(), KafelError> {
        let hash = self.span.clone();
        self.advance()?;
        self.take(Token::Word("define"), "`define`")?;
        let name = self.name("the name of a constant")?;
        let value = self.number("a number")?;
        if *self.constants.entry(name.text).or_insert(value) != value {
            return Err(self.redefined(hash, "constant", name.text));
        }
        Ok(())
    }

    fn policy(&mut self) -> Result<(), KafelError> {
        let start = self.span.clone();
        self.advance()?;
        let name = self.name("the name of a policy")?;
        self.take(Token::Mark("{"), "`{`")?;
        let statements = if self.token == Token::Mark("}") { Vec::new() } else { self.statements()? };
        self.take(Token::Mark("}"), "`,` and a statement, or `}`")?;
        if self.policies.insert(name.text, self.ast.policies.len()).is_some() {
            return Err(self.redefined(start, "policy", name.text));
        }
        self.ast.policies.push(statements);
        Ok(())
    }

    fn default(&mut self) -> Result<(), KafelError> {
        let start = self.span.clone();
        self.advance()?;
        let action = self.action()?;
        if self.ast.default.is_some() {
            return Err(self.redefined(start, "the action", "DEFAULT"));
        }
        self.ast.default = Some(action);
        Ok(())
    }

    fn statements(&mut self) -> Result<Vec<Statement<'a>>, KafelError> {
        let mut statements = Vec::new();
        loop {
            statements.push(self.statement()?);
            if self.token != Token::Mark(",") {
                return Ok(statements);
            }
            self.advance()?;
        }
    }

    fn statement(&mut self) -> Result<Statement<'a>, KafelError> {
        if self.token == Token::Word("USE") {
            self.advance()?;
            let name = self.name("the name of a policy")?;
            return match self.policies.get(name.text) {
                Some(index) => Ok(Statement::Use(*index)),
                None => Err(KafelError::Undefined {
                    place: self.lexer.place(name.span),
                    expected: "a policy that was defined before".to_owned(),
                    name: name.text.to_owned(),
                }),
            };
        }
        if !matches!(self.token, Token::Word(word) if is_action(word)) {
            return Err(self.expected("USE or an action"));
        }
        let action = self.action()?;
        self.take(Token::Mark("{"), "`{`")?;
        let mut filters = Vec::new();
        if self.token != Token::Mark("}") {
            filters.push(self.filter()?);
            while self.token == Token::Mark(",") {
                self.advance()?;
                filters.push(self.filter()?);
            }
        }
        self.take(Token::Mark("}"), "`,` and a system call, or `}`")?;
        Ok(Statement::Act { action, filters })
    }

    fn action(&mut self) -> Result<Action, KafelError> {
        let span = self.span.clone();
        let Token::Word(word) = self.token else {
            return Err(self.expected("an action"));
        };
        let with_value: fn(u16) -> Action = match word {
            "ERRNO" => Action::Errno,
            "TRAP" => Action::Trap,
            "TRACE" => Action::Trace,
            _ => {
                let action = match word {
                    "ALLOW" => Action::Allow,
                    "LOG" => Action::Log,
                    "KILL" | "KILL_THREAD" | "DENY" => Action::Kill,
                    "KILL_PROCESS" => Action::KillProcess,
                    "USER_NOTIF" => {
                        return Err(KafelError::Unsupported {
                            place: self.lexer.place(span),
                            feature: "USER_NOTIF",
                            reason: "nobody listens for the notifications",
                        });
                    }
                    _ => return Err(self.expected("an action")),
                };
                self.advance()?;
                return Ok(action);
            }
        };
        self.advance()?;
        self.take(Token::Mark("("), "`(`")?;
        let at = self.span.clone();
        let number = self.number("a number")?;
        self.take(Token::Mark(")"), "`)`")?;
        match u16::try_from(number) {
            Ok(value) => Ok(with_value(value)),
            Err(_) => Err(self.out_of_range(at, "a number up to 65535", number)),
        }
    }

    fn filter(&mut self) -> Result<Filter<'a>, KafelError> {
        let span = self.span.clone();
        let call = self.call()?;
        let arguments = if self.token == Token::Mark("(") { Some(self.arguments()?) } else { None };
        let machines = if self.token == Token::Word("ON") { Some(self.machines()?) } else { None };
        let mut condition = None;
        if self.token == Token::Mark("{") {
            self.advance()?;
            if self.token != Token::Mark("}") {
                condition = Some(self.condition()?);
            }
            self.take(Token::Mark("}"), "`&&`, `||`, `,` or `}`")?;
        }
        Ok(Filter { call, span, arguments, machines, condition })
    }

    fn call(&mut self) -> Result<Call<'a>, KafelError> {
        let at = self.span.clone();
        let (number, at) = match self.token {
            Token::Name(text) => {
                self.advance()?;
                match self.constants.get(text) {
                    Some(number) => (*number, at),
                    None => return Ok(Call::Named(Name { text, span: at })),
                }
            }
            Token::Word("SYSCALL") => {
                self.advance()?;
                self.take(Token::Mark("["), "`[`")?;
                let at = self.span.clone();
                let number = self.number("the number of a system call")?;
                self.take(Token::Mark("]"), "`]`")?;
                (number, at)
            }
            _ => return Err(self.expected("a system call")),
        };
        // A negative number stands for its 32 low bits.
        let call =
            u32::try_from(number).or_else(|_| i32::try_from(number.cast_signed()).map(i32::cast_unsigned));
        call.map(Call::Number).map_err(|_| self.out_of_range(at, "a number of 32 bits", number))
    }

    fn arguments(&mut self) -> Result<Vec<Name<'a>>, KafelError> {
        let mut names: Vec<Name<'a>> = Vec::new();
        self.advance()?;
        if self.token == Token::Mark(")") {
            self.advance()?;
            return Ok(names);
        }
        loop {
            let name = self.name("a name for an argument")?;
            if names.iter().any(|other| other.text == name.text) {
                return Err(self.redefined(name.span, "argument", name.text));
            }
            if names.len() == MAX_ARGUMENTS {
                let limit = format!("at most {MAX_ARGUMENTS} arguments");
                return Err(KafelError::Limit { place: self.lexer.place(name.span), limit });
            }
            names.push(name);
            if self.token != Token::Mark(",") {
                self.take(Token::Mark(")"), "`,` or `)`")?;
                return Ok(names);
            }
            self.advance()?;
        }
    }

    fn machines(&mut self) -> Result<Machines, KafelError> {
        self.advance()?;
        if self.token != Token::Mark("{") {
            return Ok(self.machine()?.1);
        }
        let mut all = Machines(0);
        loop {
            self.advance()?;
            let (name, machine) = self.machine()?;
            if all.contains(machine) {
                return Err(self.redefined(name.span, "architecture", name.text));
            }
            all.0 |= machine.0;
            if self.token != Token::Mark(",") {
                self.take(Token::Mark("}"), "`,` or `}`")?;
                return Ok(all);
            }
        }
    }

    fn machine(&mut self) -> Result<(Name<'a>, Machines), KafelError> {
        let name = self.name("an architecture")?;
        match Machines::named(name.text) {
            Some(machine) => Ok((name, machine)),
            None => Err(KafelError::Undefined {
                place: self.lexer.place(name.span),
                expected: "an architecture such as x86_64 or aarch64".to_owned(),
                name: name.text.to_owned(),
            }),
        }
    }

    pub(super) fn constant_named(&self, name: &str) -> Option<u64> {
        self.constants.get(name).copied()
    }

    pub(super) fn advance(&mut self) -> Result<(), KafelError> {
        (self.token, self.span) = self.lexer.next()?;
        Ok(())
    }

    pub(super) fn take(&mut self, token: Token<'_>, expected: &str) -> Result<(), KafelError> {
        if self.token != token {
            return Err(self.expected(expected));
        }
        self.advance()
    }

    fn name(&mut self, expected: &str) -> Result<Name<'a>, KafelError> {
        let Token::Name(text) = self.token else {
            return Err(self.expected(expected));
        };
        let name = Name { text, span: self.span.clone() };
        self.advance()?;
        Ok(name)
    }

    fn number(&mut self, expected: &str) -> Result<u64, KafelError> {
        let Token::Number(number) = self.token else {
            return Err(self.expected(expected));
        };
        self.advance()?;
        Ok(number)
    }

    pub(super) fn expected(&self, expected: &str) -> KafelError {
        KafelError::Syntax {
            place: self.lexer.place(self.span.clone()),
            expected: expected.to_owned(),
            found: self.token.to_string(),
        }
    }

    pub(super) fn limit(&self, span: Range<usize>, limit: String) -> KafelError {
        KafelError::Limit { place: self.lexer.place(span), limit }
    }

    fn redefined(&self, span: Range<usize>, what: &'static str, name: &str) -> KafelError {
        KafelError::Redefined { place: self.lexer.place(span), what, name: name.to_owned() }
    }

    fn out_of_range(&self, span: Range<usize>, expected: &str, number: u64) -> KafelError {
        KafelError::Range {
            place: self.lexer.place(span),
            expected: expected.to_owned(),
            number: number.to_string(),
        }
    }
}

fn is_action(word: &str) -> bool {
    ["ALLOW", "LOG", "KILL", "KILL_THREAD", "KILL_PROCESS", "DENY", "ERRNO", "TRAP", "TRACE", "USER_NOTIF"]
        .contains(&word)
}
