//! chemxor
