import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { createLocks } from '../../src/index.ts'
import { compiled } from '../compiled.ts'
import { type CampaignOptions, type CampaignResult, onTarget, percentile, wrongSums } from './campaign.ts'
import { TAKEOVER_SLACK_MS } from './checkers.ts'
import { clock } from './history.ts'
import type { HolderSettings } from './holder.ts'
import type { Target } from './target.ts'
import { connectWork, PERMITS } from './work.ts'

/** Each killed holder has so many locks. */
const LOCKS_PER_HOLDER = 10
/** Of the permits of each semaphore. The others stay free, and those who wait want all of them. */
const WEIGHTS = [2, 1]

/** Holders are killed while others wait; how long from the death to the grant. Of permits, that each comes back, and once. */
export function takeovers({ engine, times, ttlMs, permits = false }: CampaignOptions): Promise<CampaignResult> {
  return onTarget(engine, async (target) => {
    const work = await connectWork(target.dialect, target.urls[0])
    const locks = createLocks(work.adapter, { ttl: ttlMs, wait: '1m' })
    const names = Array.from({ length: LOCKS_PER_HOLDER }, (_, index) => `takeover:${index}`)
    const connections = await Promise.all(names.map(() => target.connect()))
    const delays: number[] = []
    const violations: string[] = []
    const books = engine === 'sqlite' ? 'row' : 'slots'
    try {
      while (delays.length < times) {
        const holder = await startHolder(target, names, permits ? WEIGHTS : null, ttlMs)
        const waiting = names.map(async (name, index) => {
          const connection = connections[index]!
          const semaphore = locks.semaphore(name, { permits: PERMITS })
          const lease = await (permits ? semaphore.acquire({ weight: PERMITS }) : locks.acquire(name))
          const grantedAt = clock()
          if (permits) violations.push(...(await wrongSums(connection, name, PERMITS, books)))
          await lease.release()
          if (permits) {
            violations.push(...(await wrongSums(connection, name, 0, books)))
            const available = await semaphore.available()
            if (available !== PERMITS) violations.push(`${name}: ${available} permits are available, not ${PERMITS}`)
          }
          return grantedAt
        })
        // Long enough to be in the queue, and to die at any time between two renewals.
        await sleep(ttlMs * (0.3 + Math.random()))
        const diedAt = clock()
        holder.kill('SIGKILL')
        delays.push(...(await Promise.all(waiting)).map((grantedAt) => grantedAt - diedAt))
      }
    } finally {
      await locks.close()
      await work.close()
      for (const connection of connections) await connection.close()
    }
    const p99 = percentile(delays, 0.99)!
    const bound = ttlMs + TAKEOVER_SLACK_MS
    return {
      campaign: permits ? 'takeovers of permits' : 'takeovers',
      engine,
      figures: {
        takeovers: delays.length,
        'p50, ms': percentile(delays, 0.5)!,
        'p99, ms': p99,
        'longest, ms': percentile(delays, 1)!,
      },
      violations:
        p99 > bound ? [...violations, `the p99 of takeovers is ${p99.toFixed(0)} ms, not ${bound}`] : violations,
    }
  })
}

async function startHolder(
  { dialect, urls }: Target,
  locks: readonly string[],
  weights: readonly number[] | null,
  ttlMs: number,
) {
  const settings: HolderSettings = { dialect, url: urls[0], locks, weights, ttlMs }
  const holder = fork(compiled(new URL('holder.ts', import.meta.url)), [JSON.stringify(settings)], {
    execArgv: [],
  })
  const failed = once(holder, 'exit').then(([code]) => Promise.reject(new Error(`the holder ended with ${code}`)))
  await Promise.race([once(holder, 'message'), failed])
  failed.catch(() => undefined)
  return holder
}
