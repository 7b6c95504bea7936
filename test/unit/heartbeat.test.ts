import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Heartbeat, type Renewable } from '../../src/process/heartbeat.ts'
import type { Hold, Renewal } from '../../src/protocol/store.ts'

type Renew = (holds: readonly (Hold & { ttlMs: number })[]) => Promise<Renewal[]>

class FakeLease implements Renewable {
  readonly owner = 'owner'
  readonly token = 1n
  readonly renewals: Renewal['outcome'][] = []
  unknown = 0

  constructor(
    readonly name: string,
    public ttlMs: number | null,
  ) {}

  renewalTtlMs(): number | null {
    return this.ttlMs
  }

  onRenewal({ outcome }: Renewal): void {
    this.renewals.push(outcome)
  }

  onUnknown(): void {
    this.unknown++
  }
}

describe('the heartbeat', () => {
  let outcome: Renewal['outcome'] = 'renewed'
  const answer: Renew = async (holds) => holds.map(({ ttlMs }) => ({ outcome, remainingMs: ttlMs }))
  const renew = vi.fn<Renew>(answer)
  let heartbeat = new Heartbeat(renew)

  beforeEach(() => {
    vi.useFakeTimers()
    outcome = 'renewed'
    renew.mockReset()
    renew.mockImplementation(answer)
    heartbeat = new Heartbeat(renew)
  })

  afterEach(() => {
    heartbeat.stop()
    expect(vi.getTimerCount()).toBe(0)
    vi.useRealTimers()
  })

  const add = (count: number, ttlMs = 30_000) => {
    const leases = Array.from({ length: count }, (_, index) => new FakeLease(`lease ${index}`, ttlMs))
    for (const lease of leases) heartbeat.add(lease, ttlMs)
    return leases
  }
  const seconds = (count: number) => vi.advanceTimersByTimeAsync(count * 1000)

  it('renews each third of the ttl, all leases in one call', async () => {
    const leases = add(1000)
    await seconds(9.9)
    expect(renew).not.toHaveBeenCalled()
    await seconds(60)
    expect(renew).toHaveBeenCalledTimes(6)
    expect(renew.mock.calls.map(([holds]) => holds.length)).toEqual([1000, 1000, 1000, 1000, 1000, 1000])
    expect(leases.every((lease) => lease.renewals.length === 6)).toBe(true)
  })

  it('brings leases that began at different times into step', async () => {
    for (let index = 0; index < 10; index++) {
      add(1)
      await seconds(0.4)
    }
    await seconds(100)
    const lastCalls = renew.mock.calls.slice(-3).map(([holds]) => holds.length)
    expect(lastCalls).toEqual([10, 10, 10])
  })

  it('renews short leases more often than long ones, and these along with them when they are due soon', async () => {
    const [short] = add(1, 3000)
    const [long] = add(1, 60_000)
    await seconds(30.5)
    expect(short!.renewals).toHaveLength(30)
    expect(long!.renewals).toHaveLength(3)
  })

  it('tries again soon when a renewal fails or finds the row locked', async () => {
    const [lease] = add(1, 12_000)
    renew.mockRejectedValueOnce(new Error('the database is gone'))
    await seconds(4)
    expect(lease!.unknown).toBe(1)
    await seconds(1)
    expect(lease!.renewals).toEqual(['renewed'])

    outcome = 'held'
    await seconds(4)
    expect(lease!.renewals).toEqual(['renewed', 'held'])
    outcome = 'renewed'
    await seconds(1)
    expect(lease!.renewals).toEqual(['renewed', 'held', 'renewed'])
  })

  it('sends another renewal beside one that gets no answer, and takes the late answer too', async () => {
    const [lease] = add(1, 3000)
    let answerLate: (renewals: Renewal[]) => void = () => undefined
    renew.mockImplementationOnce(() => new Promise((resolve) => (answerLate = resolve)))
    await seconds(1)
    expect(lease!.renewals).toEqual([])
    await seconds(1)
    expect(lease!.unknown).toBe(1)
    expect(lease!.renewals).toEqual(['renewed'])
    answerLate([{ outcome: 'renewed', remainingMs: 3000 }])
    await seconds(1)
    expect(lease!.renewals).toEqual(['renewed', 'renewed', 'renewed'])
  })

  it('renews nothing that is over or was removed, and then rests', async () => {
    const [over, removed] = add(2)
    over!.ttlMs = null
    heartbeat.remove(removed!)
    await seconds(100)
    expect(renew).not.toHaveBeenCalled()
    expect(vi.getTimerCount()).toBe(0)
  })

  it('stops at once', async () => {
    add(3)
    await seconds(15)
    heartbeat.stop()
    renew.mockClear()
    await seconds(100)
    expect(renew).not.toHaveBeenCalled()
  })
})
