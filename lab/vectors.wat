;; The inner loops of linear.ts and network.ts on vectors of two float64; see vectors.ts for what calls them. Offsets and
;; strides are in bytes. What lies in memory beyond the entries that count is read and computed with, and never looked at.
(module
  (memory (export "memory") 16)

  ;; Four entries of a row of C, added to what is there if `add`.
  (func $store (param $c i32) (param $low v128) (param $high v128) (param $add i32)
    (if (local.get $add) (then
      (local.set $low (f64x2.add (local.get $low) (f64x2.promote_low_f32x4 (v128.load64_zero (local.get $c)))))
      (local.set $high (f64x2.add (local.get $high) (f64x2.promote_low_f32x4 (v128.load64_zero offset=8 (local.get $c)))))))
    (v128.store64_lane 0 (local.get $c) (f32x4.demote_f64x2_zero (local.get $low)))
    (v128.store64_lane offset=8 0 (local.get $c) (f32x4.demote_f64x2_zero (local.get $high))))

  ;; C = A · B, or C + A · B, on float32 matrices: four by four entries at a time, each summed in float64 in the order of
  ;; the JavaScript loop, so that both give the same numbers bit for bit. Rows of C are `cr` bytes apart, and it has room
  ;; for whole blocks of four rows and four columns. `panel` has room for 4 · L float64.
  (func (export "product")
    (param $c i32) (param $cr i32) (param $a i32) (param $ar i32) (param $ac i32)
    (param $b i32) (param $br i32) (param $bc i32) (param $panel i32)
    (param $M i32) (param $N i32) (param $L i32) (param $add i32)
    (local $n i32) (local $m i32) (local $l i32) (local $p i32) (local $q i32) (local $r i32)
    (local $a0 i32) (local $a1 i32) (local $a2 i32) (local $a3 i32)
    (local $x v128) (local $y v128) (local $z v128)
    (local $s0 v128) (local $t0 v128) (local $s1 v128) (local $t1 v128)
    (local $s2 v128) (local $t2 v128) (local $s3 v128) (local $t3 v128)
    (loop $columns
      ;; four columns of B in a row, as float64
      (local.set $l (local.get $L)) (local.set $p (local.get $panel))
      (local.set $q (i32.add (local.get $b) (i32.mul (local.get $n) (local.get $bc))))
      (loop $pack
        (f64.store (local.get $p) (f64.promote_f32 (f32.load (local.get $q))))
        (local.set $r (i32.add (local.get $q) (local.get $bc)))
        (f64.store offset=8 (local.get $p) (f64.promote_f32 (f32.load (local.get $r))))
        (local.set $r (i32.add (local.get $r) (local.get $bc)))
        (f64.store offset=16 (local.get $p) (f64.promote_f32 (f32.load (local.get $r))))
        (local.set $r (i32.add (local.get $r) (local.get $bc)))
        (f64.store offset=24 (local.get $p) (f64.promote_f32 (f32.load (local.get $r))))
        (local.set $q (i32.add (local.get $q) (local.get $br)))
        (local.set $p (i32.add (local.get $p) (i32.const 32)))
        (br_if $pack (local.tee $l (i32.sub (local.get $l) (i32.const 1)))))
      (local.set $m (i32.const 0))
      (loop $rows
        (local.set $a0 (i32.add (local.get $a) (i32.mul (local.get $m) (local.get $ar))))
        (local.set $a1 (i32.add (local.get $a0) (local.get $ar)))
        (local.set $a2 (i32.add (local.get $a1) (local.get $ar)))
        (local.set $a3 (i32.add (local.get $a2) (local.get $ar)))
        (local.set $s0 (v128.const i64x2 0 0)) (local.set $t0 (v128.const i64x2 0 0))
        (local.set $s1 (v128.const i64x2 0 0)) (local.set $t1 (v128.const i64x2 0 0))
        (local.set $s2 (v128.const i64x2 0 0)) (local.set $t2 (v128.const i64x2 0 0))
        (local.set $s3 (v128.const i64x2 0 0)) (local.set $t3 (v128.const i64x2 0 0))
        (local.set $l (local.get $L)) (local.set $p (local.get $panel))
        (loop $sum
          (local.set $y (v128.load (local.get $p))) (local.set $z (v128.load offset=16 (local.get $p)))
          (local.set $x (f64x2.promote_low_f32x4 (v128.load32_splat (local.get $a0))))
          (local.set $s0 (f64x2.add (local.get $s0) (f64x2.mul (local.get $x) (local.get $y))))
          (local.set $t0 (f64x2.add (local.get $t0) (f64x2.mul (local.get $x) (local.get $z))))
          (local.set $x (f64x2.promote_low_f32x4 (v128.load32_splat (local.get $a1))))
          (local.set $s1 (f64x2.add (local.get $s1) (f64x2.mul (local.get $x) (local.get $y))))
          (local.set $t1 (f64x2.add (local.get $t1) (f64x2.mul (local.get $x) (local.get $z))))
          (local.set $x (f64x2.promote_low_f32x4 (v128.load32_splat (local.get $a2))))
          (local.set $s2 (f64x2.add (local.get $s2) (f64x2.mul (local.get $x) (local.get $y))))
          (local.set $t2 (f64x2.add (local.get $t2) (f64x2.mul (local.get $x) (local.get $z))))
          (local.set $x (f64x2.promote_low_f32x4 (v128.load32_splat (local.get $a3))))
          (local.set $s3 (f64x2.add (local.get $s3) (f64x2.mul (local.get $x) (local.get $y))))
          (local.set $t3 (f64x2.add (local.get $t3) (f64x2.mul (local.get $x) (local.get $z))))
          (local.set $a0 (i32.add (local.get $a0) (local.get $ac))) (local.set $a1 (i32.add (local.get $a1) (local.get $ac)))
          (local.set $a2 (i32.add (local.get $a2) (local.get $ac))) (local.set $a3 (i32.add (local.get $a3) (local.get $ac)))
          (local.set $p (i32.add (local.get $p) (i32.const 32)))
          (br_if $sum (local.tee $l (i32.sub (local.get $l) (i32.const 1)))))
        (local.set $p (i32.add (i32.add (local.get $c) (i32.mul (local.get $m) (local.get $cr))) (i32.shl (local.get $n) (i32.const 2))))
        (call $store (local.get $p) (local.get $s0) (local.get $t0) (local.get $add))
        (call $store (local.tee $p (i32.add (local.get $p) (local.get $cr))) (local.get $s1) (local.get $t1) (local.get $add))
        (call $store (local.tee $p (i32.add (local.get $p) (local.get $cr))) (local.get $s2) (local.get $t2) (local.get $add))
        (call $store (i32.add (local.get $p) (local.get $cr)) (local.get $s3) (local.get $t3) (local.get $add))
        (br_if $rows (i32.lt_u (local.tee $m (i32.add (local.get $m) (i32.const 4))) (local.get $M))))
      (br_if $columns (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 4))) (local.get $N)))))

  ;; y = c + d / (1 + exp(a z)) in place of each float32 z: `n` of them in each of `rows` rows that are `stride` bytes apart.
  ;; With e^x = 2^k e^r, |r| ≤ ½ ln 2, and a Taylor series of e^r, which is right to 1e-14. Not a number stays so.
  (func (export "squash")
    (param $at i32) (param $stride i32) (param $rows i32) (param $n i32) (param $a f64) (param $c f64) (param $d f64)
    (local $q i32) (local $left i32) (local $k v128) (local $r v128) (local $p v128)
    (loop $row
      (local.set $q (local.get $at)) (local.set $left (local.get $n))
      (loop $pair
        (local.set $r (f64x2.mul (f64x2.splat (local.get $a)) (f64x2.promote_low_f32x4 (v128.load64_zero (local.get $q)))))
        (local.set $r (f64x2.min (f64x2.splat (f64.const 700)) (f64x2.max (f64x2.splat (f64.const -700)) (local.get $r))))
        ;; the number that brings the sum's last binary place to 1: its low bits are k
        (local.set $k (f64x2.add (f64x2.mul (local.get $r) (f64x2.splat (f64.const 1.4426950408889634))) (f64x2.splat (f64.const 6755399441055744))))
        (local.set $r (f64x2.sub (local.get $r) (f64x2.mul (f64x2.sub (local.get $k) (f64x2.splat (f64.const 6755399441055744))) (f64x2.splat (f64.const 0.6931471805599453)))))
        (local.set $p (f64x2.splat (f64.const 2.755731922398589e-07)))
        (local.set $p (f64x2.add (f64x2.mul (local.get $p) (local.get $r)) (f64x2.splat (f64.const 2.7557319223985893e-06))))
        (local.set $p (f64x2.add (f64x2.mul (local.get $p) (local.get $r)) (f64x2.splat (f64.const 2.48015873015873e-05))))
        (local.set $p (f64x2.add (f64x2.mul (local.get $p) (local.get $r)) (f64x2.splat (f64.const 0.0001984126984126984))))
        (local.set $p (f64x2.add (f64x2.mul (local.get $p) (local.get $r)) (f64x2.splat (f64.const 0.001388888888888889))))
        (local.set $p (f64x2.add (f64x2.mul (local.get $p) (local.get $r)) (f64x2.splat (f64.const 0.008333333333333333))))
        (local.set $p (f64x2.add (f64x2.mul (local.get $p) (local.get $r)) (f64x2.splat (f64.const 0.041666666666666664))))
        (local.set $p (f64x2.add (f64x2.mul (local.get $p) (local.get $r)) (f64x2.splat (f64.const 0.16666666666666666))))
        (local.set $p (f64x2.add (f64x2.mul (local.get $p) (local.get $r)) (f64x2.splat (f64.const 0.5))))
        (local.set $p (f64x2.add (f64x2.mul (local.get $p) (local.get $r)) (f64x2.splat (f64.const 1.0))))
        (local.set $p (f64x2.add (f64x2.mul (local.get $p) (local.get $r)) (f64x2.splat (f64.const 1.0))))
        (local.set $p (i64x2.add (local.get $p) (i64x2.shl (local.get $k) (i32.const 52))))
        (local.set $p (f32x4.demote_f64x2_zero (f64x2.add (f64x2.splat (local.get $c))
          (f64x2.div (f64x2.splat (local.get $d)) (f64x2.add (f64x2.splat (f64.const 1)) (local.get $p))))))
        (if (i32.gt_u (local.get $left) (i32.const 1))
          (then (v128.store64_lane 0 (local.get $q) (local.get $p)))
          (else (v128.store32_lane 0 (local.get $q) (local.get $p))))
        (local.set $q (i32.add (local.get $q) (i32.const 8)))
        (br_if $pair (i32.gt_s (local.tee $left (i32.sub (local.get $left) (i32.const 2))) (i32.const 0))))
      (local.set $at (i32.add (local.get $at) (local.get $stride)))
      (br_if $row (local.tee $rows (i32.sub (local.get $rows) (i32.const 1))))))

  ;; right = Aᵀ left, then left = A right: n rows of float32, `width` apart, a multiple of 16 whose rest is zero; left and
  ;; right are float64.
  (func (export "bounce") (param $a i32) (param $width i32) (param $n i32) (param $left i32) (param $right i32)
    (local $i i32) (local $p i32) (local $q i32) (local $end i32) (local $v v128) (local $s v128) (local $t v128)
    (local.set $q (local.get $right)) (local.set $end (i32.add (local.get $right) (i32.shl (local.get $width) (i32.const 1))))
    (loop $clear
      (v128.store (local.get $q) (v128.const i64x2 0 0))
      (br_if $clear (i32.lt_u (local.tee $q (i32.add (local.get $q) (i32.const 16))) (local.get $end))))
    (local.set $p (local.get $a))
    (loop $rows
      (local.set $v (v128.load64_splat (i32.add (local.get $left) (i32.shl (local.get $i) (i32.const 3)))))
      (local.set $q (local.get $right))
      (loop $entries
        (v128.store (local.get $q) (f64x2.add (v128.load (local.get $q))
          (f64x2.mul (local.get $v) (f64x2.promote_low_f32x4 (v128.load64_zero (local.get $p))))))
        (v128.store offset=16 (local.get $q) (f64x2.add (v128.load offset=16 (local.get $q))
          (f64x2.mul (local.get $v) (f64x2.promote_low_f32x4 (v128.load64_zero offset=8 (local.get $p))))))
        (local.set $p (i32.add (local.get $p) (i32.const 16)))
        (br_if $entries (i32.lt_u (local.tee $q (i32.add (local.get $q) (i32.const 32))) (local.get $end))))
      (br_if $rows (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (local.set $i (i32.const 0)) (local.set $p (local.get $a))
    (loop $rows
      (local.set $s (v128.const i64x2 0 0)) (local.set $t (v128.const i64x2 0 0))
      (local.set $q (local.get $right))
      (loop $entries
        (local.set $s (f64x2.add (local.get $s) (f64x2.mul (v128.load (local.get $q))
          (f64x2.promote_low_f32x4 (v128.load64_zero (local.get $p))))))
        (local.set $t (f64x2.add (local.get $t) (f64x2.mul (v128.load offset=16 (local.get $q))
          (f64x2.promote_low_f32x4 (v128.load64_zero offset=8 (local.get $p))))))
        (local.set $p (i32.add (local.get $p) (i32.const 16)))
        (br_if $entries (i32.lt_u (local.tee $q (i32.add (local.get $q) (i32.const 32))) (local.get $end))))
      (local.set $s (f64x2.add (local.get $s) (local.get $t)))
      (f64.store (i32.add (local.get $left) (i32.shl (local.get $i) (i32.const 3)))
        (f64.add (f64x2.extract_lane 0 (local.get $s)) (f64x2.extract_lane 1 (local.get $s))))
      (br_if $rows (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))))
