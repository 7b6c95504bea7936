import { setTimeout as sleep } from 'node:timers/promises'
import { type Locks, LockTimeoutError } from '../../src/index.ts'

/** While somebody was sure to hold the lock. Times are nanoseconds of a clock that all processes of this machine share. */
export interface Claim {
  readonly token: bigint
  readonly from: bigint
  readonly until: bigint
}

/** A call of forceRelease that took the lock from somebody. Times are microseconds since 1970, as tokens are. */
export interface Eviction {
  readonly from: bigint
  readonly until: bigint
}

export interface Report {
  readonly claims: Claim[]
  /** Of all grants, also of those whose lease was over when their answer arrived. */
  readonly tokens: bigint[]
  readonly evictions: Eviction[]
  readonly abandoned: number
  readonly purged: number
  readonly takeovers: number
}

const clock = () => process.hrtime.bigint()
const tokenClock = () => BigInt(Date.now()) * 1000n

/** Clients of one instance who want one lock, again and again. */
export interface Contest {
  /** What has happened so far. */
  report(): Promise<Report>
  /** The same when all clients have come to an end. */
  stop(): Promise<Report>
}

/**
 * Lets `clients` compete. The first of them never gives back what it got, and uses it to the last moment; the second one is
 * an operator, who force-releases and purges now and then.
 */
export function startContest(locks: Locks<unknown>, name: string, clients: number): Contest {
  const claims: Claim[] = []
  const tokens: bigint[] = []
  const evictions: Eviction[] = []
  const counts = { abandoned: 0, purged: 0, takeovers: 0 }
  const stopped = new AbortController()
  const isOver = () => stopped.signal.aborted
  const stopListening = locks.on((event) => {
    if (event.type === 'takeover') counts.takeovers++
  })

  const grantOnce = async (crashes: boolean, waits: boolean) => {
    const options = crashes ? { ttl: 150, renew: false } : { ttl: 2000 }
    const lease = waits ? await locks.acquire(name, { ...options, wait: 2000 }) : await locks.tryAcquire(name, options)
    if (lease === null) return
    const from = clock()
    tokens.push(lease.token)
    if (lease.isHeld()) {
      let until = from
      do {
        await sleep(Math.random() * 3)
        const now = clock()
        if (lease.isHeld()) until = now
      } while (crashes && lease.isHeld())
      claims.push({ token: lease.token, from, until })
    }
    if (crashes) counts.abandoned++
    else await lease.release()
  }

  const client = async (crashes: boolean, waits: boolean) => {
    while (!isOver()) {
      try {
        await grantOnce(crashes, waits)
      } catch (error) {
        if (!(error instanceof LockTimeoutError)) throw error
      }
      await sleep(Math.random() * (waits ? 20 : 400))
    }
  }

  const operator = async () => {
    for (let turn = 1; !isOver(); turn++) {
      await sleep(50 + Math.random() * 50)
      counts.purged += await locks.purge({ idleFor: 0 })
      if (turn % 5 > 0) continue
      const from = tokenClock()
      if (await locks.forceRelease(name)) evictions.push({ from, until: tokenClock() + 1000n })
    }
  }

  const parts = Array.from({ length: clients }, (_, index) =>
    index === 1 ? operator() : client(index === 0, index % 4 !== 3),
  )
  const report = async () => ({ claims, tokens, evictions, ...counts })
  return {
    report,
    async stop() {
      stopped.abort()
      await Promise.all(parts)
      stopListening()
      return report()
    },
  }
}

/** Pairs of claims that no lock should allow: at one time, or with tokens that fall. */
export function violations(reports: readonly Report[]): string[] {
  const claims = reports.flatMap((report) => report.claims).sort((a, b) => (a.from < b.from ? -1 : 1))
  const evictions = reports.flatMap((report) => report.evictions)
  // Who was evicted does not know it at once, and may hear of its grant after its successor did.
  const excused = (a: Claim, b: Claim) => {
    const [earlier, later] = a.token < b.token ? [a, b] : [b, a]
    return evictions.some(({ from, until }) => until >= earlier.token && from <= later.token)
  }
  const found: string[] = []
  for (const [index, claim] of claims.entries()) {
    for (const [offset, next] of claims.slice(index + 1).entries()) {
      const overlaps = next.from < claim.until
      const falls = offset === 0 && next.token <= claim.token
      if (!overlaps && offset > 0) break
      if ((overlaps || falls) && !excused(claim, next)) found.push(`${show(next)} after ${show(claim)}`)
    }
  }
  return found
}

function show({ token, from, until }: Claim): string {
  return `token ${token} (held from ${from} to ${until})`
}
