"""The chain's storage at one of its newest blocks: read in one request, then answered from memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

# A storage item as the SDK describes it (pallet and name), and its keys.
Asked = tuple[Any, Sequence[Any]]


class HeadState:
    """One block of one connection, at or near the newest.

    It is what the SDK calls a ``Substrate``, as far as building a call asks one, and a block-pinned view, as far as
    reading a metagraph does: so the SDK's own code runs on what was read here. An item that was not read is asked for.
    """

    def __init__(self, substrate: Any, number: int, block_hash: str, codec: Any) -> None:
        self.number = number
        self._substrate = substrate
        self._hash = block_hash
        self._codec = codec
        self._values: dict[bytes, bytes | None] = {}

    @classmethod
    async def newest(cls, substrate: Any) -> HeadState:
        """The newest block, nothing read of it yet; two requests, and a third where the runtime is to be asked for."""
        block_hash = await substrate.raw.get_chain_head()
        return await cls._of(substrate, await substrate.raw.get_block_number(block_hash), block_hash)

    @classmethod
    async def recent(cls, substrate: Any, number: int) -> HeadState:
        """A block of the last few minutes: it is taken to have the runtime that the newest has."""
        return await cls._of(substrate, number, await substrate.block_hash(number))

    @classmethod
    async def _of(cls, substrate: Any, number: int, block_hash: str) -> HeadState:
        runtimes = substrate.raw._runtimes
        codec = await runtimes.codec_at(None)
        # without this the SDK asks for the runtime by the block's parent: two requests for every block
        runtimes._spec_by_block_hash.set(block_hash, codec.spec_version)
        return cls(substrate, number, block_hash, codec)

    async def read(self, items: Iterable[Asked]) -> None:
        """Read items in one request; those that the runtime does not have are left out."""
        keys: dict[str, bytes] = {}
        for (pallet, name), parameters in items:
            try:
                key = bytes(self._codec.storage_key(self._codec.storage_entry(pallet, name), list(parameters)))
            # the SDK's StorageFunctionNotFound
            except ValueError:
                continue
            keys["0x" + key.hex()] = key
        answer = await self._substrate._read(
            lambda raw: raw.rpc_request("state_queryStorageAt", [list(keys), self._hash])
        )
        found = {key: value for group in answer or () for key, value in group["changes"]}
        for text, key in keys.items():
            value = found.get(text)
            self._values[key] = None if value is None else bytes.fromhex(value[2:])

    async def value(self, item: Any, *parameters: Any) -> Any:
        """An item's decoded value; None where the runtime has no such item."""
        try:
            return await self.query(item[0], item[1], list(parameters))
        except ValueError:
            return None

    # -- bittensor's Substrate ------------------------------------------------------------------------------------

    async def query(
        self, module: str, storage_function: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> Any:
        """An item as of this block, whatever ``block_hash`` says.

        Raises:
            StorageFunctionNotFound: the runtime has no such item.
        """
        from bittensor._transport.storage import decode_storage_value

        entry = self._codec.storage_entry(module, storage_function)
        key = bytes(self._codec.storage_key(entry, params or []))
        if key not in self._values:
            return await self._substrate.query(module, storage_function, params, self._hash)
        return decode_storage_value(self._codec, entry, self._values[key])

    async def block_number(self) -> int:
        """This block's number."""
        return self.number

    async def block_hash(self, block: int | None = None) -> str:
        """This block's hash: a call is built on no other."""
        return self._hash

    async def block_time(self) -> float:
        """Seconds between two blocks."""
        return float(await self._substrate.block_time())

    async def compose(self, call: Any) -> Any:
        """A call as the runtime encodes it."""
        return await self._substrate.compose(call)

    # -- bittensor's view -----------------------------------------------------------------------------------------

    async def at(self) -> HeadState:
        """This view."""
        return self

    async def runtime(self, method: Any, params: list[Any]) -> Any:
        """A runtime API's answer as of this block."""
        return await self._substrate.runtime_call(method[0], method[1], params, self._hash)
