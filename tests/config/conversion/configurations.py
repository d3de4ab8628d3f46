"""A small configuration of each tool, written for these tests."""

LLAMA_FACTORY = """\
model_name_or_path: Qwen/Qwen3-4B-Instruct-2507
trust_remote_code: true
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
quantization_bit: 4
dataset: identity,alpaca_en_demo
template: qwen3_nothink
max_samples: 1000
preprocessing_num_workers: 16
output_dir: saves/qwen3-4b/lora/sft
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
warmup_ratio: 0.1
bf16: true
use_liger_kernle: true
"""

AXOLOTL = """\
base_model: NousResearch/Llama-3.2-1B
load_in_4bit: true
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_target_linear: true
datasets:
  - path: mhenrichsen/alpaca_2k_test
    type: alpaca
    split: train[:10%]
  - path: mlabonne/FineTome-100k
    type: chat_template
    field_messages: conversations
    message_property_mappings: {role: from, content: value}
val_set_size: 0.05
sequence_len: 2048
sample_packing: true
evals_per_epoch: 4
saves_per_epoch: 1
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 2
optimizer: adamw_bnb_8bit
learning_rate: 2e-4
bf16: auto
wandb_project:
context_parapllel_size: 2
special_tokens:
  pad_token: <|end_of_text|>
"""

MS_SWIFT = """\
# LoRA on one card
nproc_per_node=2
NPROC_PER_NODE=$nproc_per_node \\
CUDA_VISIBLE_DEVICES=0,1 \\
swift sft \\
    --model Qwen/Qwen2.5-7B-Instruct \\
    --tuner_type lora \\
    --dataset 'AI-ModelScope/alpaca-gpt4-data-en#500' \\
    --learning_rate 1e-4 \\
    --lora_rank 8 \\
    --per_device_train_batch_size 1 \\
    --gradient_accumulation_steps $(expr 16 / $nproc_per_node) \\
    --split_dataset_ratio 0.01 \\
    --external_plugins plugin.py \\
    --max_length 2048
"""

HANDBOOK = """\
model_name_or_path: HuggingFaceTB/SmolLM2-1.7B
torch_dtype: bfloat16
dataset_mixture:
  datasets:
    - id: HuggingFaceH4/ultrafeedback_binarized
      config: default
      split: train_prefs
      columns: [chosen, rejected]
      weight: 0.5
  test_split_size: 1000
  seed: 0
bf16: true
beta: 0.01
max_length: 1024
max_prompt_length: 512
learning_rate: 5.0e-7
num_train_epochs: 1
output_dir: data/smol-dpo
push_to_hub: true
"""

TORCHTUNE = """\
output_dir: /tmp/torchtune/llama3_1_8B/qlora
model:
  _component_: torchtune.models.llama3_1.qlora_llama3_1_8b
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: True
  lora_rank: 8
  lora_alpha: 16
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  path: /tmp/Meta-Llama-3.1-8B-Instruct/original/tokenizer.model
  max_seq_len: null
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: /tmp/Meta-Llama-3.1-8B-Instruct/
  output_dir: ${output_dir}
dataset:
  _component_: torchtune.datasets.alpaca_cleaned_dataset
  packed: False
seed: null
batch_size: 2
optimizer:
  _component_: torch.optim.AdamW
  lr: 3e-4
  weight_decay: 0.01
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
loss:
  _component_: torchtune.modules.loss.CEWithChunkedOutputLoss
epochs: 1
gradient_accumulation_steps: 8
"""

FILES = {
    "llama_factory": ("theirs.yaml", LLAMA_FACTORY),
    "axolotl": ("theirs.yml", AXOLOTL),
    "ms_swift": ("theirs.sh", MS_SWIFT),
    "trl": ("theirs.yaml", HANDBOOK),
    "torchtune": ("theirs.yaml", TORCHTUNE),
}
