import { type EngineName, migrate, startTarget, type Target } from './target.ts'

/** One kind of fault, again and again, and nothing else. */
export interface CampaignOptions {
  readonly engine: EngineName
  /** How often. */
  readonly times: number
  readonly ttlMs: number
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

export function percentile(values: readonly number[], part: number): number | null {
  const sorted = [...values].sort((one, other) => one - other)
  return sorted[Math.ceil(sorted.length * part) - 1] ?? null
}
