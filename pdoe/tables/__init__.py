"""Many runs beside a published table; needs no torch."""
