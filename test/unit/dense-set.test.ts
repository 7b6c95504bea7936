import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DenseSet, type DenseSetItem } from '../../src/base/dense-set.ts'

describe('members', () => {
  it('are those that were added and not deleted since, as in a Set', () => {
    const steps = fc.array(fc.record({ add: fc.boolean(), at: fc.nat(9) }), { maxLength: 100 })
    fc.assert(
      fc.property(steps, (taken) => {
        const items = Array.from({ length: 10 }, (): DenseSetItem => ({}))
        const members = new DenseSet<DenseSetItem>()
        const expected = new Set<DenseSetItem>()
        for (const { add, at } of taken) {
          const item = items[at]!
          if (add) {
            members.add(item)
            expected.add(item)
          } else {
            expect(members.delete(item)).toBe(expected.delete(item))
          }
        }
        expect(members.size).toBe(expected.size)
        const seen = new Set(members)
        expect(seen).toEqual(expected)
        expect([...expected].every((item) => seen.has(item))).toBe(true)
      }),
    )
  })

  it('may leave while somebody goes through them', () => {
    const members = new DenseSet<DenseSetItem>()
    for (let count = 0; count < 10; count++) members.add({})
    let seen = 0
    for (const member of members) {
      members.delete(member)
      seen++
    }
    expect([seen, members.size]).toEqual([10, 0])
  })

  it('may come back after all were dismissed', () => {
    const members = new DenseSet<DenseSetItem>()
    const member: DenseSetItem = {}
    members.add(member)
    members.clear()
    expect(members.delete(member)).toBe(false)
    members.add(member)
    expect([...members]).toEqual([member])
    expect([...members][0]).toBe(member)
  })
})
