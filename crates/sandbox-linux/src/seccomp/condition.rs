//! Conditions on arguments: `,` and `||`, `&&`, `!`, comparisons, `|`, `&`, each binding more tightly than the one
//! before. A parenthesis may hold a truth value or a number, and only what follows inside tells which, so both are
//! read by the same functions and told apart where they meet an operator.

use std::ops::Range;

use super::ast::{Bits, Comparison, Condition, Name};
use super::lexer::Token;
use super::parser::Parser;
use super::{KafelError, MAX_DEPTH, MAX_NESTING};

/// What was read, and how deep it is.
#[derive(Debug)]
enum Term<'a> {
    Truth(Condition<Name<'a>>, usize),
    Value(Bits<Name<'a>>, usize),
}

#[derive(Debug, Clone, Copy)]
enum Operator {
    Or,
    And,
    Compare(Comparison),
    BitOr,
    BitAnd,
}

/// How tightly the loosest operator, a comparison, and what a comparison compares bind.
const LOOSEST: u8 = 1;
const COMPARISON: u8 = 4;
const VALUE: u8 = 5;

/// An operator, and how tightly it binds.
fn operator(token: Token<'_>) -> Option<(Operator, u8)> {
    let Token::Mark(mark) = token else { return None };
    let comparison = match mark {
        "," => return Some((Operator::Or, LOOSEST)),
        "||" => return Some((Operator::Or, 2)),
        "&&" => return Some((Operator::And, 3)),
        "|" => return Some((Operator::BitOr, VALUE)),
        "&" => return Some((Operator::BitAnd, 6)),
        "==" => Comparison::Eq,
        "!=" => Comparison::Ne,
        "<" => Comparison::Lt,
        "<=" => Comparison::Le,
        ">" => Comparison::Gt,
        ">=" => Comparison::Ge,
        _ => return None,
    };
    Some((Operator::Compare(comparison), COMPARISON))
}

impl<'a> Parser<'a> {
    /// A condition up to the brace that ends it.
    pub(super) fn condition(&mut self) -> Result<Condition<Name<'a>>, KafelError> {
        let term = self.term(LOOSEST, 0)?;
        Ok(self.truth(term)?.0)
    }

    /// Operands and the operators between them that bind at least as tightly as `least`.
    fn term(&mut self, least: u8, nesting: usize) -> Result<Term<'a>, KafelError> {
        let start = self.span.start;
        let mut left = self.operand(least, nesting)?;
        while let Some((operator, tightness)) =
            operator(self.token).filter(|(_, tightness)| *tightness >= least)
        {
            left = match operator {
                Operator::Or | Operator::And => {
                    let (left, left_depth) = self.truth(left)?;
                    self.advance()?;
                    let right = self.term(tightness + 1, nesting)?;
                    let (right, right_depth) = self.truth(right)?;
                    let depth = self.deeper(left_depth.max(right_depth), start..self.span.start)?;
                    let (left, right) = (Box::new(left), Box::new(right));
                    let both = match operator {
                        Operator::And => Condition::And(left, right),
                        _ => Condition::Or(left, right),
                    };
                    Term::Truth(both, depth)
                }
                Operator::Compare(_) | Operator::BitOr | Operator::BitAnd => {
                    let Term::Value(left, left_depth) = left else {
                        return Err(self.expected("`&&`, `||`, `,` or the end of the condition"));
                    };
                    self.advance()?;
                    let Term::Value(right, right_depth) = self.term(tightness + 1, nesting)? else {
                        return Err(self.expected("a number before this, not a condition"));
                    };
                    let depth = self.deeper(left_depth.max(right_depth), start..self.span.start)?;
                    match operator {
                        Operator::Compare(sign) => Term::Truth(Condition::Compare(sign, left, right), depth),
                        Operator::BitAnd => Term::Value(Bits::And(Box::new(left), Box::new(right)), depth),
                        _ => Term::Value(Bits::Or(Box::new(left), Box::new(right)), depth),
                    }
                }
            };
        }
        Ok(left)
    }

    fn operand(&mut self, least: u8, nesting: usize) -> Result<Term<'a>, KafelError> {
        let start = self.span.start;
        let bits = match self.token {
            Token::Number(number) => Bits::Number(number),
            Token::Name(text) => match self.constant_named(text) {
                Some(number) => Bits::Number(number),
                None => Bits::Value(Name { text, span: self.span.clone() }),
            },
            Token::Mark("(") => {
                let nesting = self.inside(nesting)?;
                self.advance()?;
                let inner = self.term(LOOSEST, nesting)?;
                self.take(Token::Mark(")"), "`)`")?;
                return Ok(inner);
            }
            // Denies the comparison or the parenthesis that follows.
            Token::Mark("!") if least <= COMPARISON => {
                let nesting = self.inside(nesting)?;
                self.advance()?;
                let term = self.term(COMPARISON, nesting)?;
                let (condition, depth) = self.truth(term)?;
                let depth = self.deeper(depth, start..self.span.start)?;
                return Ok(Term::Truth(Condition::Not(Box::new(condition)), depth));
            }
            _ => return Err(self.expected("a number, a constant or the name of an argument")),
        };
        self.advance()?;
        Ok(Term::Value(bits, 0))
    }

    /// The term, which the current token follows, must be a truth value.
    fn truth(&self, term: Term<'a>) -> Result<(Condition<Name<'a>>, usize), KafelError> {
        match term {
            Term::Truth(condition, depth) => Ok((condition, depth)),
            Term::Value(..) => Err(self.expected("a comparison")),
        }
    }

    fn deeper(&self, depth: usize, span: Range<usize>) -> Result<usize, KafelError> {
        if depth >= MAX_DEPTH {
            return Err(self.limit(span, format!("a condition at most {MAX_DEPTH} deep")));
        }
        Ok(depth + 1)
    }

    /// Counts what opens at the current token.
    fn inside(&self, nesting: usize) -> Result<usize, KafelError> {
        if nesting >= MAX_NESTING {
            let limit = format!("at most {MAX_NESTING} parentheses and `!` inside each other");
            return Err(self.limit(self.span.clone(), limit));
        }
        Ok(nesting + 1)
    }
}
