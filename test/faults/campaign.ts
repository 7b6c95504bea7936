import type { TestConnection } from '../connect.ts'
import { type EngineName, migrate, startTarget, type Target } from './target.ts'

/** One kind of fault, again and again, and nothing else. */
export interface CampaignOptions {
  readonly engine: EngineName
  /** How often. */
  readonly times: number
  readonly ttlMs: number
  /** Of semaphores, not of locks. Default false. */
  readonly permits?: boolean
}

export interface CampaignResult {
  readonly campaign: string
  readonly engine: EngineName
  readonly figures: Readonly<Record<string, number>>
  /** What must not be, in sentences. */
  readonly violations: readonly string[]
}

/** A server of its own, with rowlock's tables. */
export async function onTarget<T>(engine: EngineName, use: (target: Target) => Promise<T>): Promise<T> {
  const target = await startTarget(engine, { clock: false })
  try {
    await migrate(target)
    return await use(target)
  } finally {
    await target.stop()
  }
}

/** What is wrong with the books of a semaphore, of which `taken` permits are held. SQLite keeps them in the row of the lock. */
export async function wrongSums(
  connection: TestConnection,
  name: string,
  taken: number,
  books: 'slots' | 'row' = 'slots',
): Promise<string[]> {
  const inRow = `(select coalesce(sum(value ->> 'weight'), 0) from json_each(l.shares))`
  const [ofUsed, ofWeights] =
    books === 'row'
      ? [inRow, inRow]
      : ['l.used', '(select coalesce(sum(s.weight), 0) from rowlock_slots as s where s.name = l.name)']
  const [row] = await connection.query(
    `select ${ofUsed} as used, ${ofWeights} as weights from rowlock_locks as l where l.name = '${name}'`,
  )
  const { used, weights } = { used: Number(row?.used), weights: Number(row?.weights) }
  if (used === taken && weights === taken) return []
  return [`${name}: ${taken} permits are held, ${used} are counted, and ${weights} are in its slots`]
}

export function percentile(values: readonly number[], part: number): number | null {
  const sorted = [...values].sort((one, other) => one - other)
  return sorted[Math.ceil(sorted.length * part) - 1] ?? null
}
