//! chemxor-chem
