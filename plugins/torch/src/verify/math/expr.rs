//! Expressions: the tree, and what can be asked of it.

/// A mathematical expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    /// Digits with at most one point.
    Number(String),
    Pi,
    E,
    I,
    Infinity,
    /// A variable, or a name that nothing is known of.
    Symbol(String),
    Sum(Vec<Expr>),
    Product(Vec<Expr>),
    Quotient(Box<Expr>, Box<Expr>),
    Negative(Box<Expr>),
    Power(Box<Expr>, Box<Expr>),
    /// The root of the given degree.
    Root(u32, Box<Expr>),
    Function(&'static str, Vec<Expr>),
    /// A function that only has a name: `f(x)`.
    Named(String, Vec<Expr>),
    /// A sum or product over an integer variable.
    Series {
        product: bool,
        variable: String,
        from: Box<Expr>,
        to: Box<Expr>,
        body: Box<Expr>,
    },
}

impl Expr {
    pub(super) fn integer(value: u64) -> Self {
        Self::Number(value.to_string())
    }

    /// Calls `visit` on this expression and all inside it.
    pub(super) fn walk(&self, visit: &mut dyn FnMut(&Expr)) {
        visit(self);
        match self {
            Self::Sum(parts) | Self::Product(parts) | Self::Function(_, parts) | Self::Named(_, parts) => {
                parts.iter().for_each(|part| part.walk(visit));
            }
            Self::Quotient(a, b) | Self::Power(a, b) => {
                a.walk(visit);
                b.walk(visit);
            }
            Self::Negative(a) | Self::Root(_, a) => a.walk(visit),
            Self::Series { from, to, body, .. } => [from, to, body].into_iter().for_each(|part| part.walk(visit)),
            _ => {}
        }
    }

    /// Returns whether it has no variables and no functions that only have a name.
    pub(super) fn is_constant(&self) -> bool {
        let mut constant = true;
        let mut bound: Vec<String> = Vec::new();
        self.walk(&mut |part| {
            if let Self::Series { variable, .. } = part {
                bound.push(variable.clone());
            }
        });
        self.walk(&mut |part| match part {
            Self::Symbol(name) => constant &= bound.contains(name),
            Self::Named(..) => constant = false,
            _ => {}
        });
        constant
    }

    /// Returns the names of its variables, sorted.
    pub(super) fn variables(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.walk(&mut |part| {
            if let Self::Symbol(name) = part {
                found.push(name.clone());
            }
        });
        found.sort();
        found.dedup();
        found
    }

    pub(super) fn has_function(&self, names: &[&str]) -> bool {
        let mut found = false;
        self.walk(&mut |part| found |= matches!(part, Self::Function(name, _) if names.contains(name)));
        found
    }
}
