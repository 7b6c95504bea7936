import { circlesSuite } from './circles.ts'
import { onEveryEngine } from './harness.ts'

onEveryEngine({ circles: circlesSuite }, ({ shared, engine }) => shared || engine === 'memory')
