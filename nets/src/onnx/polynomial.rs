//! Polynomials of degree two that a graph spells out in elementwise nodes, such as
//! `a0 + a1 * x + a2 * x ** 2`: the one place where a chain branches and joins again.

use std::collections::HashMap;

use chemxor_fhe::network::activation::{Activation, SOFTPLUS_POLYNOMIAL};
use chemxor_fhe::network::lifting::Quadratic;

use super::build::Builder;
use super::proto::{Graph, Node};
use super::{Constant, OnnxError, refuse};

/// `c0 + c1 x + c2 x²`.
pub(super) type Coefficients = [f64; 3];

/// Values that are polynomials of the chain's current value.
#[derive(Debug, Default)]
pub(super) struct Polynomials {
    known: HashMap<String, Coefficients>,
}

impl Polynomials {
    /// Takes an elementwise node that computes a polynomial of `current`; false for any other node.
    pub(super) fn take(
        &mut self,
        graph: &Graph,
        node: &Node,
        result: &str,
        current: &str,
        constants: &HashMap<String, Constant>,
    ) -> Result<bool, OnnxError> {
        let branches = || {
            let uses = graph.nodes.iter().flat_map(|node| &node.inputs);
            uses.filter(|name| *name == current).count() > 1
        };
        let known = |name: &String| self.known.contains_key(name);
        let operator = node.operator.as_str();
        if !matches!(operator, "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Neg")
            || !(operator == "Pow" || node.inputs.iter().any(known) || branches())
        {
            return Ok(false);
        }
        let mut parts = Vec::new();
        for name in &node.inputs {
            let constant = constants.get(name).map(|constant| &constant.values[..]);
            let part = match (name == current, self.known.get(name), constant) {
                (true, ..) => [0.0, 1.0, 0.0],
                (_, Some(known), _) => *known,
                (_, _, Some([value])) => [*value, 0.0, 0.0],
                _ => return Ok(false),
            };
            parts.push(part);
        }
        let found = combine(operator, &parts).ok_or_else(|| {
            refuse(
                node,
                "activations are read as polynomials of degree two at most, with one number for each coefficient; retrain with such a one",
            )
        })?;
        self.known.insert(result.to_owned(), found);
        Ok(true)
    }

    /// The polynomial that a later node or the graph's output takes as the next current value.
    pub(super) fn close(&mut self, name: &str) -> Option<Coefficients> {
        let found = self.known.remove(name)?;
        self.known.clear();
        Some(found)
    }
}

fn combine(operator: &str, parts: &[Coefficients]) -> Option<Coefficients> {
    let each = |f: &dyn Fn(usize) -> f64| [f(0), f(1), f(2)];
    let value = match (operator, parts) {
        ("Neg", [a]) => each(&|i| -a[i]),
        ("Add", [a, b]) => each(&|i| a[i] + b[i]),
        ("Sub", [a, b]) => each(&|i| a[i] - b[i]),
        ("Div", [a, [k, 0.0, 0.0]]) => each(&|i| a[i] / k),
        ("Mul", [a, b]) => {
            let beyond = [a[1] * b[2] + a[2] * b[1], a[2] * b[2]];
            if beyond != [0.0, 0.0] {
                return None;
            }
            [
                a[0] * b[0],
                a[0] * b[1] + a[1] * b[0],
                a[0] * b[2] + a[1] * b[1] + a[2] * b[0],
            ]
        }
        ("Pow", [a, [1.0, 0.0, 0.0]]) => *a,
        ("Pow", [a, [2.0, 0.0, 0.0]]) => return combine("Mul", &[*a, *a]),
        _ => return None,
    };
    value.iter().all(|c| c.is_finite()).then_some(value)
}

impl Builder {
    /// Any polynomial of degree two is the softplus polynomial S between two affine maps, which
    /// the layers around it take in: `c S(x + t) + d`.
    pub(super) fn polynomial(
        &mut self,
        node: &Node,
        [c0, c1, c2]: [f64; 3],
    ) -> Result<(), OnnxError> {
        let all = |value: f64| vec![value; self.size];
        if c2 == 0.0 {
            return self.apply(node, &all(c1), &all(c0));
        }
        let Quadratic { a0, a1, a2 } = SOFTPLUS_POLYNOMIAL;
        let c = c2 / a2;
        let t = (c1 / c - a1) / (2.0 * a2);
        let d = c0 - c * ((a2 * t + a1) * t + a0);
        let (one, before, scale, after) = (all(1.0), all(t), all(c), all(d));
        if self.open {
            self.apply(node, &one, &before)?;
        }
        self.activate(node, Activation::SoftplusPolynomial)?;
        self.apply(node, &scale, &after)
    }
}
