import { onEveryEngine } from './harness.ts'
import { holdAtLeastSuite } from './hold-at-least.ts'

onEveryEngine({ 'hold at least': holdAtLeastSuite })
