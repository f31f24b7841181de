//! The integer network that the protocol evaluates.
//!
//! * A static step has integer weights `W[outputs][inputs]`: `y = W x + bias`.
//! * A lookup step has integer weights `W[outputs][neurons]` and, for each neuron, a table
//!   `f[neuron][2^b]`. With `t` the rounded pre-activation of a neuron modulo `2^b`, its
//!   contribution to output `j` is `round_shift(W[j][i] * f_i[t])`, [`round_shift`] by the step's
//!   `shift`. Activation and requantisation are folded into the tables: any function of a neuron,
//!   another one for each neuron if need be.
//!
//! Pre-activations are integers modulo `2^l` (`accumulator_bits`). Weights are dense, those of a
//! convolution, or sparse; `blob` holds the byte format.

pub mod activation;
mod blob;
pub mod float;
pub mod lifting;
mod matrix;
pub mod trees;

use chemxor_core::{Conv2d, Geometry, StepKind, StepSpec};
use zeroize::{Zeroize, ZeroizeOnDrop};

use matrix::Matrix;

/// Weights of one step. Never printed; wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct StepWeights {
    #[zeroize(skip)]
    kind: StepKind,
    inputs: usize,
    outputs: usize,
    table_bits: u8,
    shift: u8,
    /// One for each output, or empty.
    biases: Vec<i32>,
    matrix: Matrix,
    tables: Vec<i16>,
}

impl std::fmt::Debug for StepWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "StepWeights({:?}, {} -> {}, [redacted])",
            self.kind, self.inputs, self.outputs
        )
    }
}

/// Why weights were refused. Names no weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// Not a blob, or of another version.
    #[error("the weight blob is not of format CXWB version 2")]
    Format,
    /// Shorter or longer than its header says.
    #[error("the weight blob has {got} bytes where its header asks for {expected}")]
    Length {
        /// Length found.
        got: usize,
        /// Length expected.
        expected: usize,
    },
    /// A number in the header is out of range.
    #[error("the weight blob's {0} is out of range")]
    Range(&'static str),
    /// Not the step that the manifest describes.
    #[error("the weight blob's {0} differs from the manifest's step")]
    Mismatch(&'static str),
}

/// `value / 2^shift`, rounded to nearest, halves upwards. The one rounding of lookup products.
#[inline]
pub fn round_shift(value: i32, shift: u8) -> i32 {
    if shift == 0 {
        value
    } else {
        (value + (1 << (shift - 1))) >> shift
    }
}

/// Tables of a lookup step.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Tables {
    /// b: a table has 2^b entries.
    pub bits: u8,
    /// Right shift of the products of weight and entry.
    pub shift: u8,
    /// `[neurons][2^bits]`.
    pub entries: Vec<i16>,
}

impl StepWeights {
    /// A static step; `weights` is `[outputs][inputs]`.
    pub fn new_static(
        inputs: usize,
        outputs: usize,
        weights: Vec<i16>,
    ) -> Result<Self, WeightsError> {
        Self::new(inputs, outputs, Matrix::Dense(weights), None)
    }

    /// A lookup step; `weights` is `[outputs][neurons]`, `tables` is `[neurons][2^table_bits]`.
    pub fn new_lookup(
        neurons: usize,
        outputs: usize,
        table_bits: u8,
        shift: u8,
        weights: Vec<i16>,
        tables: Vec<i16>,
    ) -> Result<Self, WeightsError> {
        let tables = Tables {
            bits: table_bits,
            shift,
            entries: tables,
        };
        Self::new(neurons, outputs, Matrix::Dense(weights), Some(tables))
    }

    /// A convolution; `weights` is `[filters][channels][kernel][kernel]`. Static without `tables`.
    pub fn new_conv2d(
        conv: Conv2d,
        weights: Vec<i16>,
        tables: Option<Tables>,
    ) -> Result<Self, WeightsError> {
        if !conv.is_sound() {
            return Err(WeightsError::Range("convolution"));
        }
        let (inputs, outputs) = (conv.inputs() as usize, conv.outputs() as usize);
        Self::new(inputs, outputs, Matrix::Filters(conv, weights), tables)
    }

    /// A step with few weights in each row: `(input, weight)`, each input at most once. Which
    /// weights are zero may show in the time that the step takes. Static without `tables`.
    pub fn new_sparse(
        inputs: usize,
        rows: Vec<Vec<(u32, i16)>>,
        tables: Option<Tables>,
    ) -> Result<Self, WeightsError> {
        Self::new(inputs, rows.len(), Matrix::sparse(rows), tables)
    }

    /// Adds a constant to each pre-activation, in units of the accumulator.
    pub fn with_biases(mut self, biases: Vec<i32>) -> Result<Self, WeightsError> {
        self.biases = biases;
        self.checked()
    }

    fn new(
        inputs: usize,
        outputs: usize,
        matrix: Matrix,
        tables: Option<Tables>,
    ) -> Result<Self, WeightsError> {
        let kind = match &tables {
            None => StepKind::Static,
            Some(_) => StepKind::Lookup,
        };
        let (table_bits, shift, tables) = tables.map_or((0, 0, Vec::new()), |mut tables| {
            (
                tables.bits,
                tables.shift,
                std::mem::take(&mut tables.entries),
            )
        });
        Self {
            kind,
            inputs,
            outputs,
            table_bits,
            shift,
            biases: Vec::new(),
            matrix,
            tables,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, WeightsError> {
        if self.inputs == 0 || self.outputs == 0 {
            return Err(WeightsError::Range("weight count"));
        }
        self.matrix.check(self.inputs, self.outputs)?;
        let wanted = match self.kind {
            StepKind::Static if self.table_bits == 0 => 0,
            StepKind::Lookup if (3..=8).contains(&self.table_bits) => {
                self.inputs << self.table_bits
            }
            _ => return Err(WeightsError::Range("table bits")),
        };
        if self.tables.len() != wanted {
            return Err(WeightsError::Range("table count"));
        }
        if self.shift > 15 {
            return Err(WeightsError::Range("shift"));
        }
        if !self.biases.is_empty() && self.biases.len() != self.outputs {
            return Err(WeightsError::Range("bias count"));
        }
        Ok(self)
    }

    /// Static or lookup.
    pub fn kind(&self) -> StepKind {
        self.kind
    }

    /// Dense (sparse matrices too) or a convolution.
    pub fn geometry(&self) -> Geometry {
        self.matrix.geometry()
    }

    /// Features or neurons.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Pre-activations.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// b of the tables; 0 for a static step.
    pub fn table_bits(&self) -> u8 {
        self.table_bits
    }

    /// Right shift of lookup products.
    pub fn shift(&self) -> u8 {
        self.shift
    }

    /// Constant added to an output.
    pub fn bias(&self, output: usize) -> i32 {
        self.biases.get(output).copied().unwrap_or(0)
    }

    /// Calls `visit(input, weight)` for the entries of a row; inputs left out have weight 0.
    #[inline]
    pub fn visit_row(&self, output: usize, visit: impl FnMut(usize, i16)) {
        self.matrix.visit_row(self.inputs, output, visit);
    }

    /// Weights that are stored.
    pub fn stored(&self) -> usize {
        self.matrix.weights().len()
    }

    /// The same step without its weights: tables and shapes stay.
    pub(crate) fn tables_only(mut self) -> Self {
        self.matrix.zeroize();
        self.matrix = Matrix::sparse(vec![Vec::new(); self.outputs]);
        self
    }

    /// Table of `neuron`.
    pub fn table(&self, neuron: usize) -> &[i16] {
        let size = 1 << self.table_bits;
        &self.tables[neuron * size..][..size]
    }

    /// Largest `||row||_2^2` over the outputs of the matrix that multiplies encrypted coefficients:
    /// what the noise grows by (docs/protocol.md, section 7).
    pub fn max_row_norm_squared(&self) -> f64 {
        let row_norm = |output: usize| -> f64 {
            let mut sum = 0.0;
            self.visit_row(output, |input, weight| {
                sum += match self.kind {
                    StepKind::Static => f64::from(weight).powi(2),
                    StepKind::Lookup => self.product_norm_squared(input, weight),
                };
            });
            sum
        };
        (0..self.outputs).map(row_norm).fold(0.0, f64::max)
    }

    fn product_norm_squared(&self, input: usize, weight: i16) -> f64 {
        let entry = |f: &i16| round_shift(i32::from(weight) * i32::from(*f), self.shift);
        self.table(input)
            .iter()
            .map(|f| f64::from(entry(f)).powi(2))
            .sum()
    }

    /// Whether these are weights for that step of the graph.
    pub fn matches(&self, spec: &StepSpec) -> Result<(), WeightsError> {
        let require = |holds: bool, what| {
            if holds {
                Ok(())
            } else {
                Err(WeightsError::Mismatch(what))
            }
        };
        require(self.kind == spec.kind, "kind")?;
        require(self.geometry() == spec.geometry, "geometry")?;
        require(self.inputs == spec.inputs as usize, "inputs")?;
        require(self.outputs == spec.outputs as usize, "outputs")?;
        let bits_agree = self.kind == StepKind::Static || self.table_bits == spec.input_bits;
        require(bits_agree, "table bits")
    }
}

#[cfg(test)]
mod tests;
