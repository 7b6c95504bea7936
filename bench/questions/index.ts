import type { Question } from '../harness.ts'
import { cycles } from './cycles.ts'
import { delay } from './delay.ts'
import { guard } from './guard.ts'
import { handOff } from './hand-off.ts'
import { hotRow } from './hot-row.ts'
import { idleWaiters } from './idle-waiters.ts'
import { memory } from './memory.ts'
import { once } from './once.ts'
import { pair } from './pair.ts'
import { renewal } from './renewal.ts'
import { rows } from './rows.ts'
import { takeover } from './takeover.ts'
import { transactions } from './transactions.ts'

/** In the order of the report. */
export const questions: readonly Question[] = [
  pair,
  handOff,
  idleWaiters,
  cycles,
  renewal,
  guard,
  transactions,
  once,
  delay,
  takeover,
  memory,
  rows,
  hotRow,
]
