import { createLocks } from '../../src/index.ts'
import { connectWork, type Dialect, PERMITS } from './work.ts'

/** A process that holds locks and renews them until it is killed. Run by takeovers.ts. */
export interface HolderSettings {
  readonly dialect: Dialect
  readonly url: string
  readonly locks: readonly string[]
  /** Weights of which it takes permits, of semaphores with PERMITS; null: it takes locks. */
  readonly weights: readonly number[] | null
  readonly ttlMs: number
}

const { dialect, url, locks: names, weights, ttlMs } = JSON.parse(process.argv[2] ?? '') as HolderSettings
const locks = createLocks((await connectWork(dialect, url)).adapter, { ttl: ttlMs, wait: '1m' })
const take = (name: string) => {
  if (weights === null) return [locks.acquire(name)]
  const semaphore = locks.semaphore(name, { permits: PERMITS })
  return weights.map((weight) => semaphore.acquire({ weight }))
}
await Promise.all(names.flatMap(take))
process.on('disconnect', () => process.exit(1))
process.send?.('held')
