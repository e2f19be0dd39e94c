# ResNet50 with the authors' published settings of CoC, on ImageNet: no row of the paper, which has neither the layer
# norms nor the standardised super kernels that their code has. Their schedule: SGD with learning rate 0.1, without
# Nesterov momentum, x0.1 at epochs 30, 60 and 90, in batches of 128 on each GPU (how many GPUs is not published).
# Super kernels have weight decay like all other weights (operator_rules=False), as in the paper.
#
#   tools/dist_train.sh configs/imagenet/resnet50_coc_official.py 4
_base_ = './resnet50.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv', preset='standard')))
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(paramwise_cfg=dict(operator_rules=False))
