//! chemxor-nets
