"""TLS to upstreams."""

import ssl

from stratmaster_router.domain.routing import TlsFiles


def upstream_context(files: TlsFiles | None) -> ssl.SSLContext:
    """A verifying client context, with the provider's own CA and client certificate where it has them.

    Raises OSError or ssl.SSLError where a file cannot be used: a certificate is never silently left out.
    """
    if files is None:
        return ssl.create_default_context()
    context = ssl.create_default_context(cafile=files.ca)
    if files.cert is not None:
        context.load_cert_chain(files.cert, files.key)
    return context
