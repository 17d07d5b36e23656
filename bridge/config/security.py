"""Settings of who may speak to a listener, and how. Names are near those of the Collector's configtls."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from bridge.config.fields import Allowed, FilePath, Host, Port, SecretText
from bridge.config.table import Table
from bridge.security import TOKEN, check_token

_HEADER = r"^[0-9A-Za-z!#$%&'*+.^_`|~-]+$"


def _token(value: SecretText) -> SecretText:
    check_token(value.get_secret_value())
    return value


Token: TypeAlias = Annotated[SecretText, AfterValidator(_token), WithJsonSchema({"type": "string", "minLength": 16})]
TokenList: TypeAlias = Annotated[
    tuple[Token, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    Allowed(f"a list of tokens: {TOKEN}"),
]
HeaderName: TypeAlias = Annotated[
    str, Field(pattern=_HEADER), Allowed('the name of a header, such as "x-api-key"', hide=True)
]


class _ServerTlsSettings(Table):
    """PEM files of a listener. With a certificate it speaks TLS alone, without one none."""

    cert_file: FilePath | None = Field(
        default=None, description="Certificate of this listener with those above it (PEM); needs key_file."
    )
    key_file: FilePath | None = Field(default=None, description="Its private key (PEM), without a passphrase.")
    client_ca_file: FilePath | None = Field(
        default=None, description="Authorities of clients (PEM): each client must show a certificate of one of them."
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            there, missing = ("key_file", "cert_file") if self.cert_file is None else ("cert_file", "key_file")
            raise ValueError(f"{there} is set without {missing}; a certificate and its key go together")
        if self.client_ca_file is not None and self.cert_file is None:
            raise ValueError("client_ca_file is set without cert_file and key_file; there is no TLS without them")
        return self


class HttpTlsSettings(_ServerTlsSettings):
    """PEM files of a listener. With a certificate it speaks TLS alone, without one none."""

    min_version: Literal["1.2", "1.3"] = Field(default="1.2", description="Oldest version of TLS that is spoken.")


class GrpcTlsSettings(_ServerTlsSettings):
    """PEM files of a listener. With a certificate it speaks TLS alone, without one none."""

    min_version: Annotated[Literal["1.2"], Allowed('"1.2": gRPC speaks 1.2 and 1.3, and offers no choice')] = Field(
        default="1.2", description="Oldest version of TLS that is spoken; with gRPC it is not to be chosen."
    )


class ListenerSettings(Table):
    """What every listener has."""

    enabled: bool  # these four are declared here for their places, or for those who take any listener
    host: Host
    port: Port
    tokens: TokenList = Field(
        default=(), description="Tokens, one of which each request must show. Better kept in tokens_file."
    )
    tokens_file: FilePath | None = Field(
        default=None,
        description="File with further tokens, one a line; read again when it changes. Lines that begin with # do not "
        "count.",
    )
    auth_header: HeaderName = Field(
        default="authorization",
        description='Header that has the token: "Bearer TOKEN" in authorization, TOKEN alone in any other.',
    )
    tls: GrpcTlsSettings | HttpTlsSettings
