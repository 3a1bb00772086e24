"""Published AES-GCM test vectors: a part of gcmtestvectors.zip of NIST's CAVP, in the public domain (17 U.S.C. 105)."""
