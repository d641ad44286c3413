"""What ops take: times as people have them (four numbers, a shipped profile, a file), put on any placement."""

from penstock.cost.prices import Pricing, layered, pricing, whole_bytes
from penstock.cost.profiles import Profile, profiles
from penstock.cost.vocabulary import with_parts, with_whole

__all__ = ["Pricing", "Profile", "layered", "pricing", "profiles", "whole_bytes", "with_parts", "with_whole"]
