# UPerNet-R50 on ADE20K: the plain network that configs/upernet_r50_fdconv_ade20k.py is compared with. Upstream's
# recipe: 512 x 512, SGD 0.01, 160k iterations, four images on each of four GPUs.
#
#   tools/dist_train.sh configs/upernet_r50_ade20k.py 4
_base_ = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'
