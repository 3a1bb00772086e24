"""Published AES-GCM vectors: NIST CAVP, gcmtestvectors.zip, in the public domain (17 U.S.C. 105), cut."""
