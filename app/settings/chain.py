"""The chain, the wallet, and the hosts that an epoch's facts come from."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from app.domain import MODELS_NETUID, MOLECULES_NETUID
from app.settings.concern import Concern
from app.settings.values import Duration, Endpoints, FileName, Network, WebAddress, WebAddresses


class ChainSettings(Concern):
    """Which subnet, read from where, with whose hotkey."""

    netuid: int = Field(MOLECULES_NETUID, description="subnet to validate: 68 (molecules) or 21 (models)")
    subtensor_network: Network = Field("finney", description="network name or ws:// endpoint")
    subtensor_fallbacks: Endpoints = Field(
        None, description="further ws:// endpoints, separated by commas, or none; the network's public ones when unset"
    )
    subtensor_archives: Endpoints = Field(
        None, description="endpoints that keep old state, or none; the network's public ones when unset"
    )
    chain_timeout: Duration = Field(timedelta(seconds=30), description="one read on one endpoint")
    wallet_name: FileName = Field("default", description="coldkey's name in the wallet folder")
    wallet_hotkey: FileName = Field("default", description="hotkey's name")
    wallet_path: Path = Field(Path("~/.bittensor/wallets"), description="wallet folder")
    offline: bool = Field(False, description="never talk to the chain; use what the store knows")
    dont_set_weights: bool = Field(False, description="compute and keep the weights, but submit none")
    weights_file: Path | None = Field(None, description="test mode: write each vector here instead of to the chain")
    weights_pause: Duration = Field(timedelta(seconds=12), description="between two tries to set weights")

    github_token: SecretStr | None = Field(None, description="raises GitHub's rate limit")
    github_raw_url: WebAddress = Field("https://raw.githubusercontent.com", description="where files are read")
    github_api_url: WebAddress = Field("https://api.github.com", description="where push times are read")
    drand_urls: WebAddresses = Field(
        ("https://api.drand.sh", "https://drand.cloudflare.com", "https://api2.drand.sh"),
        description="drand endpoints, tried in turn, separated by commas",
    )
    uniprot_url: WebAddress = Field("https://rest.uniprot.org", description="where protein sequences are read")
    hf_endpoint: WebAddress = Field("https://huggingface.co", description="the Hugging Face hub")
    hf_token: SecretStr | None = Field(None, description="for datasets that need one")

    @field_validator("netuid")
    @classmethod
    def _known_subnet(cls, netuid: int) -> int:
        if netuid not in {MOLECULES_NETUID, MODELS_NETUID}:
            raise ValueError(
                f"this validator knows subnets {MOLECULES_NETUID} (molecules) and {MODELS_NETUID} (models)"
            )
        return netuid

    @property
    def sets_weights(self) -> bool:
        """Whether weights go to the chain: not in test mode (``WEIGHTS_FILE``), nor where none are to be set."""
        return not (self.weights_file is not None or self.dont_set_weights or self.offline)
