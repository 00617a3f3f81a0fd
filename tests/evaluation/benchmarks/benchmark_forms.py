"""A few rows of each benchmark's files, as they are published, for the tests of their loaders."""

import json

from trueline.evaluation import benchmarks

ANNOTATION = {
    "caption": "A dog's bowl before a brown dog",
    "annotations": {
        "dog": {"category": "dog", "local_prompts": "a brown dog", "bbox": [256, 0, 768, 1024]},
        "bowl": {"category": "bowl", "local_prompts": "a steel bowl", "bbox": [0, 512, 512, 1024]},
    },
    "relations": {"(dog, bowl)": "behind"},
    "valid_overlap": [{"overlap_box": [0, 1], "iou": 0.2}],
}
FORMS = {
    "7bench": {
        "7bench/7bench.csv": "id,category,prompt,obj1,bbox1,obj2,bbox2,obj3,bbox3,obj4,bbox4\n"
        '000,object_binding,A rose,rose,"128,0,256,512",,,,,,\n'
        '033,object_relationship,A cat and a dog,cat,"0,0,256,256",dog,"400,400,600,500",,,,\n'
    },
    "abc-6k": {"abc6k_cc500/ABC-6K.txt": "A red cat on a blue mat.\nA blue cat on a red mat .\n"},
    "cc-500": {
        "abc6k_cc500/CC-500.txt": "a red book and a yellow vase\t\nAn orange cat and a black cell phone\n"
    },
    "coco-mig": {
        "coco_mig/mig_bench.json": json.dumps(
            {
                "0": {
                    "caption": "a photo of a red cat and a blue stop sign",
                    "segment": [
                        {"label": "a red cat", "bbox": [0, 0, 0.5, 0.5]},
                        {"label": "a blue stop sign", "bbox": [0.5, 0.5, 1, 1]},
                    ],
                    "image_id": "769",
                }
            }
        )
    },
    "drawbench": {
        "drawbench/drawbench.csv": "Prompts,Category\nTwo dogs on the street.,Counting\n"
        '"A cat, red.","Gary Marcus et al. "\nA train on top of a surfboard.,Positional\n',
        "drawbench/counting_labels.json": '{"Two dogs on the street.": ["dog", "dog"]}',
        "drawbench/positional_labels.json": '{"A train on top of a surfboard.": ["Train", "Surfboard"]}',
    },
    "geneval": {
        "geneval/evaluation_metadata.jsonl": '{"tag": "counting", "include": [{"class": "clock", "count": 2}],'
        ' "exclude": [{"class": "clock", "count": 3}], "prompt": "a photo of two clocks"}\n'
    },
    "geneval-2": {
        "geneval2/geneval2_data.jsonl": '{"prompt": "two red cats", "atom_count": 3, "vqa_list": [["How many cats are'
        ' there?", "two"], ["Are the cats red?", "Yes"], ["Are there any cats?", "Yes"]],'
        ' "skills": ["count", "attribute", "object"]}\n'
    },
    "hrs": {
        "hrs_bench/counting_prompts.csv": "synthetic_prompt,n1,obj1,n2,obj2\n"
        "two cups,2,cup,0,\ntwo cups,2,cup,0,\nthree cats and a dog,3,cat,1,dog\n",
        "hrs_bench/spatial_compositions_prompts.csv": "meta_prompt,obj1,obj2,obj3,obj4,rel1,rel2\n"
        "a dog on a cat.,dog,cat,,,on,\n",
        "hrs_bench/size_compositions_prompts.csv": "meta_prompt,obj1,obj2,obj3,obj4,rel1,rel2\n"
        '"a dog and a cat, the dog is larger.",dog,cat,,,larger,\n',
        "hrs_bench/colors_composition_prompts.csv": "meta_prompt,obj1,obj2,obj3,obj4,color1,color2,color3,color4\n"
        "a red dog and a blue cat.,dog,cat,,,red,blue,,\n",
    },
    "imagereward": {"imagereward/benchmark-prompts.json": '[{"id": "005695-0057", "prompt": "a vehicle"}]'},
    "multigen": {
        f"multigen/{name}_obj_comp_5_1k.json": json.dumps(
            [
                {
                    "unique_id": 7,
                    "num_objects": 2,
                    "obj_1_attributes": ["wine glass"],
                    "obj_2_attributes": ["cup"],
                    "text": "a photo of a wine glass and a cup.",
                }
            ]
        )
        for name in ("coco", "ade20k")
    },
    "overlaybench": {
        f"overlaybench/{split}.jsonl": json.dumps({"image_id": "00000007", "annotation": repr(ANNOTATION)})
        + "\n"
        for split in ("simple", "medium", "hard")
    },
    "partiprompts": {
        "partiprompts/PartiPrompts.tsv": "Prompt\tCategory\tChallenge\tNote\n"
        'a sign that says "Hello\tArtifacts\tBasic\t\n'
    },
    "t2i-compbench": {
        f"t2i_compbench/{name}.txt": text
        for name, text in {
            "color_val": "a red cat and a blue dog\n",
            "shape_val": "a round cat\n",
            "texture_val": "a fluffy cat\n",
            "spatial_val": "a cat on the left of a dog\n",
            "non_spatial_val": "A cat eats.\n",
            "complex_val": "The red hat was on top of the rack.\nThe cat eats.\nThe cat sat near the dog.\n",
            "complex_val_spatial": "The red hat was on top of the rack.\n",
            "complex_val_action": "The cat eats.\n",
        }.items()
    },
}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def examples(folder, name, **options):
    return list(benchmarks.load(name, folder, **options).examples)
