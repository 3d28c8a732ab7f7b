"""What a training command imports before its first step."""

import bitsandbytes.optim  # noqa: F401
import datasets  # noqa: F401
import peft.tuners.lora.bnb  # noqa: F401
import scipy.stats  # noqa: F401
import transformers.models.llama.modeling_llama
import transformers.optimization  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

import trimtab.api
import trimtab.cli
import trimtab.commands
import trimtab.core.finished
import trimtab.core.pipeline
import trimtab.plugins.registry
import trimtab.progress

trimtab.plugins.registry.Plugins()
trimtab.commands.quiet()
trimtab.cli.build()
